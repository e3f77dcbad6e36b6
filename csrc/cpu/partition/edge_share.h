// Edge share of batches from independent walks (csrc/common/edge_share.h).
#pragma once

#include <cstdint>
#include <vector>

#include "common/edge_share.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/walk/batch_walks.h"

namespace bse {

// Walks from the roots and returns the edge share of their batches, sampled over some of their members.
EdgeShare walk_edge_share(const PartitionRequest& request, const std::vector<uint32_t>& roots, Monitor& monitor);

}  // namespace bse

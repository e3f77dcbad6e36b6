// Edge share of batches from independent walks (csrc/common/edge_share.h).
#pragma once

#include <cstdint>
#include <vector>

#include "common/edge_share.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/walk/batch_walks.h"

namespace bse {

// Walks from the roots and returns the edge share of their batches, sampled over some of their members.
// ids: [R] instance of each row, or empty if row i is instance i
EdgeShare walk_edge_share(const PartitionRequest& request, const std::vector<uint32_t>& roots,
                          const std::vector<int32_t>& ids, Monitor& monitor);

}  // namespace bse

// How linked independent walks are (csrc/common/edge_share.h).
#pragma once

#include <cstdint>
#include <vector>

#include "common/edge_share.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/walk/batch_walks.h"

namespace bse {

// Of independent walks from the first rows of `order`, measured at some of their members.
EdgeShare walk_edge_share(const PartitionRequest& request, const std::vector<uint32_t>& order, Monitor& monitor);

}  // namespace bse

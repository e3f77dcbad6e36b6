// Entry points of the CPU engine that turn a graph into mini-batches. Pointers are borrowed; nothing is kept.
#pragma once

#include <cstdint>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/requests.h"

namespace bse {

// Canonical walks (csrc/common/walk.h) or the other strategies, one batch each.
void walk_batches(const WalkRequest& request, const WalkResult& result, Monitor& monitor);

// Every row in exactly one batch; csrc/common/partition_schedule.h says how. nodes: [R], or [R - R mod batch_size] with
// drop_last: the full batches one after the other, then the ragged one. Returns the number of rows that were filled in
// at random.
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor);

}  // namespace bse

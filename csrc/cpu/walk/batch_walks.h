// Entry points of the CPU engine that turn a graph into mini-batches. Pointers are borrowed for the call only.
#pragma once

#include <cstdint>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/requests.h"

namespace bse {

// Collects one batch per root, by random walk (csrc/common/walk.h) or by another strategy.
void walk_batches(const WalkRequest& request, const WalkResult& result, Monitor& monitor);

// Puts every row into exactly one batch, as csrc/common/partition_schedule.h defines. nodes: [R], or
// [R - R mod batch_size] with drop_last: the full batches one after another, then the ragged one. Returns the number of
// random fills.
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor);

}  // namespace bse

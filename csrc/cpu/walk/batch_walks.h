// Entry points of the CPU engine that turn a graph into mini-batches. Pointers are borrowed; nothing is kept.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"
#include "common/strategy.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

struct WalkRequest {
  GraphView graph;
  Strategy strategy = Strategy::kWalk;
  const int64_t* roots = nullptr;     // [num_walks] rows of the graph
  const int64_t* walk_ids = nullptr;  // [num_walks] below 2^32: which walk of the epoch each is
  int64_t num_walks = 0;
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;  // floor(alpha * 2^32)
  uint64_t seed = 0;
  uint32_t epoch = 0;
  int num_threads = 1;
};

struct WalkResult {
  int32_t* nodes;  // [num_walks, batch_size] rows, -1 past the last if there are fewer rows than batch_size
  int64_t* steps;  // [num_walks] each
  int64_t* restarts;
  int64_t* reroots;
  int64_t* random_fills;
};

// Canonical walks (csrc/common/walk.h) or the other strategies, one batch each.
void walk_batches(const WalkRequest& request, const WalkResult& result, Monitor& monitor);

struct PartitionRequest {
  GraphView graph;
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;
  bool drop_last = false;
  Hardness hardness = Hardness::kDefault;
  uint64_t seed = 0;
  uint32_t epoch = 0;
  int num_threads = 1;
};

// Every row in exactly one batch; csrc/common/partition_schedule.h says how. nodes: [R], or [R - R mod batch_size] with
// drop_last: the full batches one after the other, then the ragged one. Returns the number of rows that were filled in
// at random.
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor);

}  // namespace bse

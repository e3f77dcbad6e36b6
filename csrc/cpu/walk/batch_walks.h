// Entry points of the CPU engine that turn a graph into mini-batches. Pointers are borrowed for the call only.
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
  const int64_t* roots = nullptr;     // [num_walks] graph rows
  const int64_t* walk_ids = nullptr;  // [num_walks] number of each walk in its epoch, below 2^32
  int64_t num_walks = 0;
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;  // floor(alpha * 2^32)
  uint64_t seed = 0;
  uint32_t epoch = 0;
  int num_threads = 1;
};

struct WalkResult {
  int32_t* nodes;  // [num_walks, batch_size] graph rows, then -1 if the graph has fewer rows than batch_size
  int64_t* steps;  // [num_walks], as are the following counts
  int64_t* restarts;
  int64_t* reroots;
  int64_t* random_fills;
};

// Collects one batch per root, by random walk (csrc/common/walk.h) or by another strategy.
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

// Puts every row into exactly one batch, as csrc/common/partition_schedule.h defines. nodes: [R], or
// [R - R mod batch_size] with drop_last: the full batches one after another, then the ragged one. Returns the number of
// random fills.
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor);

}  // namespace bse

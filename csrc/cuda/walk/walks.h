// Entry points of the CUDA engine that walk: what csrc/cpu/walk/batch_walks.h is on the CPU, with the same
// batches and counts.
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream` (a cudaStream_t); nothing
// here allocates, synchronizes, or reads device memory on the host. Bad values are reported in `status` (status.h),
// which clear_status prepares and any number of calls may share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/graph_view.h"

namespace bse::cuda {

struct WalkRequest {
  GraphView graph;                    // at least one row, fewer than 2^31
  bool is_uniform = false;            // no walk: the root, then the keyed permutation that random_fills batches
  const int64_t* roots = nullptr;     // [num_walks] rows of the graph
  const int64_t* walk_ids = nullptr;  // [num_walks] below 2^32, of the epoch; null: first_walk + index
  int64_t first_walk = 0;
  int64_t num_walks = 0;
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;  // floor(alpha * 2^32)
  uint64_t seed = 0;
  uint32_t epoch = 0;
};

struct WalkResult {
  int32_t* nodes = nullptr;  // [num_walks, batch_size] rows, -1 past the last if there are fewer rows than batch_size
  int64_t* steps = nullptr;  // [num_walks] each
  int64_t* restarts = nullptr;
  int64_t* reroots = nullptr;
  int64_t* random_fills = nullptr;
};

// status: [kNumStatusWords]
void clear_status(uint64_t* status, void* stream);

// Lengths of the valid prefixes; reports ids that do not belong in a table. degrees: [num_rows], set even then.
void launch_row_degrees(const GraphView& graph, int32_t* degrees, uint64_t* status, void* stream);

// Canonical walks (csrc/common/walk.h) or uniform batches, one each. scratch: walk_scratch_bytes(request)
// bytes, aligned to 16, may be null for none. A neighbor that is no row is reported
// if the walk comes to it, and ends its segment as if there were no neighbors. A walk whose root is no row is reported
// and gets -1 for all nodes and 0 for all counts.
size_t walk_scratch_bytes(const WalkRequest& request);
void launch_walks(const WalkRequest& request, const WalkResult& result, void* scratch, uint64_t* status, void* stream);

// Uniform root of each walk. roots: [num_walks]
void launch_independent_roots(int64_t num_rows, int64_t num_walks, uint64_t seed, uint32_t epoch, int64_t* roots,
                              void* stream);

// Keyed permutation of 0..num_rows-1. order: [num_rows]
void launch_root_order(int64_t num_rows, uint64_t seed, uint32_t epoch, int64_t* order, void* stream);

}  // namespace bse::cuda

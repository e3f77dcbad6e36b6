// Entry points of the CUDA engine that turn features into edges. Results equal those of the CPU engine to the bit
// (csrc/cpu/search/search.h).
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream`. Nothing here allocates,
// synchronizes, or reads device memory on the host. Invalid values are reported in `status` (status.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// The caller provides one scratch buffer of plan.scratch_bytes, aligned to 256 bytes. Any sufficient `max_bytes` gives
// the same results. If `max_bytes` is too small, plan_*() throws std::invalid_argument.
struct GraphPlan {
  int fused_rows = 0;          // rows of a thread block in fused top-k; 0: matrix top-k
  int64_t draws_at_once = 0;   // groups whose candidates are drawn together
  int64_t groups_at_once = 0;  // groups of these that are scored and selected together
  size_t scratch_bytes = 0;
};
// max_fused_rows: upper limit of fused_rows; 0 disables fused top-k. Tests set it to reach each path.
GraphPlan plan_proximity_graph(const ProximityGraphRequest& request, size_t max_bytes,
                               int max_fused_rows = tuning::kMaxFusedRows);
void proximity_graph(const ProximityGraphRequest& request, const GraphPlan& plan, const Edges& edges, void* scratch,
                     uint64_t* status, void* stream);

// Writes the row of the graph at each position (csrc/common/requests.h), for candidate_group_size > 1. order:
// [num_rows]
void launch_group_order(int64_t num_rows, uint64_t seed, uint32_t* order, void* stream);

struct KnnPlan {
  int64_t queries_at_once = 0;
  bool is_streaming = false;  // streaming top-k (candidate lists), else matrix top-k
  size_t list_bytes = 0;      // limit for the lists of all splits of the base
  size_t scratch_bytes = 0;
};
// Engine that finds exact neighbors. All give the same results.
enum class KnnMethod { kAny, kStreaming, kMatrix };

// method: tests set it to reach each path.
KnnPlan plan_knn(const KnnRequest& request, size_t max_bytes, KnnMethod method = KnnMethod::kAny);
void knn(const KnnRequest& request, const KnnPlan& plan, const Edges& edges, void* scratch, uint64_t* status,
         void* stream);

}  // namespace bse::cuda

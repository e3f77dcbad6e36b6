// Entry points of the CUDA engine that turn features into edges: what csrc/cpu/search/search.h is on the CPU, with the
// same results to the bit.
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream`; nothing here allocates,
// synchronizes, or reads device memory on the host. Errors of values are written to `status` (status.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// Scratch is taken from one buffer that the caller provides, of as many bytes as plan_*() says and aligned to 256. Any
// `max_bytes` that suffices gives the same results; less throws std::invalid_argument.
struct GraphPlan {
  int fused_rows = 0;          // 0: scores go through a scores in device memory
  int64_t draws_at_once = 0;   // groups whose candidates are drawn together
  int64_t groups_at_once = 0;  // of these, that are scored and selected together
  size_t scratch_bytes = 0;
};
// max_fused_rows: rows of a band (fused_topk_kernel.cuh), at most; 0: none. Tests choose it to reach each path.
GraphPlan plan_proximity_graph(const ProximityGraphRequest& request, size_t max_bytes,
                               int max_fused_rows = tuning::kMaxFusedRows);
void proximity_graph(const ProximityGraphRequest& request, const GraphPlan& plan, const Edges& edges, void* scratch,
                     uint64_t* status, void* stream);

struct KnnPlan {
  int64_t queries_at_once = 0;
  bool is_streaming = false;  // candidate lists with running limits, else a scores of all scores
  size_t list_bytes = 0;      // for as many splits of the base as pay
  size_t scratch_bytes = 0;
};
// How exact neighbors are found. All give the same results.
enum class KnnMethod { kAny, kStreaming, kMatrix };

// method: tests choose it to reach each path.
KnnPlan plan_knn(const KnnRequest& request, size_t max_bytes, KnnMethod method = KnnMethod::kAny);
void knn(const KnnRequest& request, const KnnPlan& plan, const Edges& edges, void* scratch, uint64_t* status,
         void* stream);

}  // namespace bse::cuda

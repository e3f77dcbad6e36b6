// Entry points of the CUDA engine that turn features into links: what csrc/cpu/search/requests.h is on the CPU, with
// the same results to the bit.
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream`; nothing here allocates,
// synchronises, or reads device memory on the host. Errors of values are written to `status` (status.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/selection.h"
#include "cuda/types/device_matrix.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

struct Links {
  int32_t* neighbors = nullptr;  // [R, K], a valid prefix then -1
  float* scores = nullptr;       // [R, K] or null; -inf past the prefix
};

struct GraphRequest {
  DeviceMatrix features, keys;    // [N, D] each; the same matrix unless there are two towers
  bool two_towers = false;        // keys are other data than features
  const int64_t* rows = nullptr;  // [num_rows] distinct ids, or null: all N
  int64_t num_rows = 0;           // R: rows of the result, and the pool that candidates come from
  int64_t num_candidates = 0;     // M <= R - 1
  int64_t rows_per_draw = 256;
  Selection selection;
  bool has_scores = false;  // the links have scores
  uint64_t seed = 0;
};

struct KnnRequest {
  DeviceMatrix queries, base;
  bool separate_base = false;          // base is other data than queries
  const int64_t* query_ids = nullptr;  // [num_queries] rows of queries, or null: all
  const int64_t* base_ids = nullptr;   // [num_base] rows of base, ascending, or null: all
  int64_t num_queries = 0, num_base = 0;
  bool exclude_self = false;  // a query is never linked to the base row of the same id
  Selection selection;
};

// Scratch is taken from one buffer that the caller provides, of as many bytes as plan_*() says and aligned to 256. Any
// `max_bytes` that suffices gives the same results; less throws std::invalid_argument.
struct GraphPlan {
  int band_rows = 0;           // 0: scores go through a slab in device memory
  int64_t draws_at_once = 0;   // groups whose candidates are drawn together
  int64_t groups_at_once = 0;  // of these, that are scored and selected together
  size_t scratch_bytes = 0;
};
// max_band_rows: rows of a band (band_kernel.cuh), at most; 0: none. Tests choose it to reach each path.
GraphPlan plan_proximity_graph(const GraphRequest& request, size_t max_bytes,
                               int max_band_rows = tuning::kMostBandRows);
void proximity_graph(const GraphRequest& request, const GraphPlan& plan, const Links& links, void* scratch,
                     uint64_t* status, void* stream);

struct KnnPlan {
  int64_t queries_at_once = 0;
  bool has_lists = false;  // candidate lists with running limits, else a slab of all scores
  size_t list_bytes = 0;   // for as many splits of the base as pay
  size_t scratch_bytes = 0;
};
// How exact neighbours are found. All give the same results.
enum class KnnMethod { kAny, kLists, kSlab };

// method: tests choose it to reach each path.
KnnPlan plan_knn(const KnnRequest& request, size_t max_bytes, KnnMethod method = KnnMethod::kAny);
void knn(const KnnRequest& request, const KnnPlan& plan, const Links& links, void* scratch, uint64_t* status,
         void* stream);

}  // namespace bse::cuda

// What the CUDA engine is asked for when it turns features into edges, and where the results go: what
// csrc/cpu/types/requests.h is on the CPU. All pointers are to memory of the current device and borrowed.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

struct Edges {
  int32_t* neighbors = nullptr;  // [R, K], a valid prefix then -1
  float* scores = nullptr;       // [R, K] or null; -inf past the prefix
};

struct GraphRequest {
  DeviceMatrix features, documents;  // [N, D] each; the same matrix unless there are two towers
  bool two_towers = false;           // documents are other data than features
  const int64_t* rows = nullptr;     // [num_rows] distinct ids, or null: all N
  int64_t num_rows = 0;              // R: rows of the result, and the subset that candidates come from
  int64_t num_candidates = 0;        // M <= R - 1
  int64_t candidate_group_size = 256;
  Selection selection;
  bool has_scores = false;  // the edges have scores
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

}  // namespace bse::cuda

// What the CPU engine is asked for when it turns features into edges. Pointers are borrowed.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cpu/types/matrix_view.h"

namespace bse {

struct ProximityGraphRequest {
  MatrixView features, documents;  // [N, D] each; the same view unless there are two towers
  bool two_towers = false;         // documents are other data than features
  const int64_t* rows = nullptr;   // [num_rows] distinct ids, or null: all N
  int64_t num_rows = 0;            // R: rows of the result, and the subset that candidates come from
  int64_t num_candidates = 0;      // M <= R - 1
  int64_t candidate_group_size = 256;
  Selection selection;
  uint64_t seed = 0;
  int num_threads = 1;
  int64_t max_memory_bytes = 0;
};

struct KnnRequest {
  MatrixView queries, base;            // [Nq, D], [Nb, D]
  bool separate_base = false;          // base is other data than queries
  const int64_t* query_ids = nullptr;  // [num_queries] rows of queries, or null: all
  const int64_t* base_ids = nullptr;   // [num_base] rows of base, ascending, or null: all
  int64_t num_queries = 0, num_base = 0;
  bool exclude_self = false;  // a query is never linked to the base row of the same id
  Selection selection;        // labels only where ids of queries and base are the same instances
  int num_threads = 1;
  int64_t max_memory_bytes = 0;
};

}  // namespace bse

// Requests to the engines, and the places of their results. Each engine adds its own fields to these. Pointers are
// borrowed, and are to memory of the engine's device.
//
// Python describes the same requests in batchsampler_ext/_engine/requests.py; csrc/python/requests.h reads them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/partition_rules.h"
#include "common/selection.h"
#include "common/strategy.h"

namespace bse {

// Result of a search: the edges of R rows, with K neighbors each. Row i of the arrays belongs to the i-th row of the
// request; neighbors are instance ids.
struct Edges {
  int32_t* neighbors = nullptr;  // [R, K], per row a valid prefix, then -1
  float* scores = nullptr;       // [R, K] or null; -inf past the prefix
};

// N: instances; D: dimensions; M: random candidates per row. Matrix: the engine's MatrixLayout.
//
// Rows are grouped by their positions: group g has positions [g * rows_per_group(), (g + 1) * rows_per_group()), and
// the last group may have fewer. The row at position i is KeyedPermutation(num_rows, seed, Purpose::kGroups, 0, 0)(i),
// or i itself if candidate_group_size is 1. A request builds a range of groups. It writes only the rows of these
// groups, and they are equal to those of the whole graph.
template <class Matrix>
struct BasicProximityGraphRequest {
  Matrix features, documents;     // [N, D] each; the same matrix unless there are two towers
  bool two_towers = false;        // documents are other data than features
  const int64_t* rows = nullptr;  // [num_rows] distinct ids, or null: all N
  int64_t num_rows = 0;           // R: number of rows of the result; candidates come from the same rows
  int64_t num_candidates = 0;     // M <= R - 1
  int64_t candidate_group_size = 256;
  int64_t first_group = 0, num_groups = 0;  // the groups to build; the whole graph: 0, all_groups()
  Selection selection;
  uint64_t seed = 0;

  int64_t rows_per_group() const { return std::min(candidate_group_size, num_rows); }
  int64_t all_groups() const { return (num_rows + rows_per_group() - 1) / rows_per_group(); }
  int64_t first_position() const { return first_group * rows_per_group(); }
  int64_t end_position() const { return std::min((first_group + num_groups) * rows_per_group(), num_rows); }
};

template <class Matrix>
struct BasicKnnRequest {
  Matrix queries, base;                // [Nq, D], [Nb, D]
  bool separate_base = false;          // base is other data than queries
  const int64_t* query_ids = nullptr;  // [num_queries] rows of queries, or null: all
  const int64_t* base_ids = nullptr;   // [num_base] rows of base, ascending, or null: all
  int64_t num_queries = 0, num_base = 0;
  bool exclude_self = false;  // no edge from a query to the base row of the same id
  Selection selection;        // labels only if equal ids in queries and base mean the same instance
};

// Graph: the engine's GraphLayout.
template <class Graph>
struct BasicWalkRequest {
  Graph graph;  // at least one row, fewer than 2^31
  Strategy strategy = Strategy::kWalk;
  const int64_t* roots = nullptr;     // [num_walks] graph rows
  const int64_t* walk_ids = nullptr;  // [num_walks] number of each walk in its epoch, below 2^32
  int64_t num_walks = 0;
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;  // floor(alpha * 2^32)
  uint64_t seed = 0;
  uint32_t epoch = 0;
};

// The edges i -> j of a graph whose row j lists i.
template <class Graph>
struct BasicMutualEdgesRequest {
  Graph graph;                    // at least one row, fewer than 2^31
  const int64_t* ids = nullptr;   // [num_rows] instance of each row, or null: row i is instance i
  const float* scores = nullptr;  // [num_rows, num_neighbors] of the edges; null if the result has no scores
};

struct WalkResult {
  int32_t* nodes = nullptr;  // [num_walks, batch_size] graph rows, then -1 if the graph has fewer rows than batch_size
  int64_t* steps = nullptr;  // [num_walks], as are the following counts
  int64_t* restarts = nullptr;
  int64_t* reroots = nullptr;
  int64_t* random_fills = nullptr;
};

template <class Graph>
struct BasicPartitionRequest {
  Graph graph;  // fewer than 2^31 rows
  int64_t batch_size = 0;
  uint32_t restart_threshold = 0;  // floor(alpha * 2^32)
  bool drop_last = false;
  Hardness hardness = Hardness::kDefault;
  uint64_t seed = 0;
  uint32_t epoch = 0;
};

}  // namespace bse

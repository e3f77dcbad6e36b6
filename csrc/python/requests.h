// Reads the requests of batchsampler_ext/_engine/requests.py: named tuples whose fields are those of
// csrc/common/requests.h and csrc/common/layouts.h. Addresses are integers.
//
// batchsampler_ext/*.py validates arguments and words the errors. A failed check here is a bug in the caller.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "common/layouts.h"
#include "common/random_stream.h"
#include "common/requests.h"
#include "python/pointers.h"

namespace bse {

// Reads fields by name: from("rows", request.rows)("seed", request.seed).
class Fields {
 public:
  explicit Fields(pybind11::object object) : object_(std::move(object)) {}

  bool has(const char* name) const { return !object_.attr(name).is_none(); }
  Fields inner(const char* name) const { return Fields(object_.attr(name)); }

  template <class T>
  const Fields& operator()(const char* name, T& field) const {
    field = cast<T>(name);
    return *this;
  }
  template <class T>
  const Fields& operator()(const char* name, T*& field) const {
    field = pointer<T>(cast<uintptr_t>(name));
    return *this;
  }
  // An enumeration with the codes 0 to last.
  template <class T>
  const Fields& code(const char* name, T& field, T last) const {
    const int value = cast<int>(name);
    require(value >= 0 && value <= static_cast<int>(last), (std::string(name) + " in its range").c_str());
    field = static_cast<T>(value);
    return *this;
  }

 private:
  template <class T>
  T cast(const char* name) const {
    try {
      return object_.attr(name).cast<T>();
    } catch (const pybind11::cast_error&) {
      throw std::invalid_argument(std::string("engine: expected a value that fits for ") + name);
    }
  }

  pybind11::object object_;
};

inline void read(const Fields& from, MatrixLayout& matrix) {
  from("address", matrix.data).code("dtype_code", matrix.dtype, kLastDType)("num_rows", matrix.num_rows);
  from("dim", matrix.dim)("row_stride", matrix.row_stride_elements)("round_to_bf16", matrix.round_to_bf16);
  require(matrix.data != nullptr && matrix.num_rows > 0 && matrix.dim > 0, "a matrix that is not empty");
}

// Reads the matrix `name`, or takes `other` if it is None. Returns whether there is one.
template <class Matrix>
bool read_optional(const Fields& from, const char* name, Matrix& matrix, const Matrix& other) {
  matrix = other;
  if (!from.has(name)) return false;
  read(from.inner(name), matrix);
  require(matrix.dim == other.dim, "two matrices of one width");
  return true;
}

inline void read(const Fields& from, GraphLayout& graph) {
  from("neighbors", graph.neighbors)("num_rows", graph.num_rows)("num_neighbors", graph.num_neighbors);
  from("degrees", graph.degrees)("row_of", graph.row_of)("num_instances", graph.num_instances);
  require(graph.num_rows > 0 && graph.num_instances < int64_t{1} << 31, "1 <= rows and fewer than 2**31 instances");
}

inline void read(const Fields& from, Selection& selection) {
  from.code("metric", selection.metric, kLastMetric)("num_neighbors", selection.num_neighbors);
  from("range_min", selection.range_min)("labels", selection.labels)("sort", selection.sort);
  selection.has_max_score = from.has("max_score");
  if (selection.has_max_score) from("max_score", selection.max_score);
  require(selection.num_neighbors > 0 && selection.range_min >= 0, "K > 0, range_min >= 0");
}

// Tables: an engine's BankTables.
template <class Tables>
void read_tables(const Fields& from, Tables& bank) {
  from("data", bank.data)("documents", bank.documents).code("dtype_code", bank.dtype, kLastDType);
  from("num_instances", bank.num_instances)("dim", bank.dim)("last_update", bank.last_update);
}

template <class Matrix>
void read(const Fields& from, BasicProximityGraphRequest<Matrix>& request) {
  read(from.inner("features"), request.features);
  request.two_towers = read_optional(from, "documents", request.documents, request.features);
  from("rows", request.rows)("num_rows", request.num_rows)("num_candidates", request.num_candidates);
  from("candidate_group_size", request.candidate_group_size)("seed", request.seed);
  from("first_group", request.first_group)("num_groups", request.num_groups);
  read(from.inner("selection"), request.selection);
  require(request.num_candidates > 0 && request.num_candidates < request.num_rows, "0 < M < number of rows");
  require(request.selection.num_neighbors <= request.num_candidates && request.candidate_group_size > 0,
          "K <= M, positive counts");
  require(request.num_groups > 0 && request.first_group >= 0 &&
              request.first_group <= request.all_groups() - request.num_groups,
          "groups of the graph");
}

template <class Matrix>
void read(const Fields& from, BasicKnnRequest<Matrix>& request) {
  read(from.inner("queries"), request.queries);
  request.separate_base = read_optional(from, "base", request.base, request.queries);
  from("query_ids", request.query_ids)("num_queries", request.num_queries);
  from("base_ids", request.base_ids)("num_base", request.num_base)("exclude_self", request.exclude_self);
  read(from.inner("selection"), request.selection);
  require(request.num_queries > 0 && request.num_base > 0, "positive counts");
}

template <class Graph>
void read(const Fields& from, BasicWalkRequest<Graph>& request) {
  read(from.inner("graph"), request.graph);
  from.code("strategy", request.strategy, kLastStrategy)("roots", request.roots)("walk_ids", request.walk_ids);
  from("num_walks", request.num_walks)("batch_size", request.batch_size);
  from("restart_threshold", request.restart_threshold)("seed", request.seed)("epoch", request.epoch);
  require(request.batch_size > 0 && request.num_walks >= 0 && request.epoch < kEpochLimit,
          "positive counts and an epoch below 2**24");
}

template <class Graph>
void read(const Fields& from, BasicMutualEdgesRequest<Graph>& request) {
  read(from.inner("graph"), request.graph);
  from("ids", request.ids)("scores", request.scores);
  require((request.ids != nullptr) == (request.graph.row_of != nullptr), "both ids and row_of, or neither");
}

template <class Graph>
void read(const Fields& from, BasicPartitionRequest<Graph>& request) {
  read(from.inner("graph"), request.graph);
  from("batch_size", request.batch_size)("restart_threshold", request.restart_threshold);
  from("drop_last", request.drop_last).code("hardness", request.hardness, kLastHardness);
  from("seed", request.seed)("epoch", request.epoch);
  require(request.batch_size > 0 && request.epoch < kEpochLimit, "a positive batch size and an epoch below 2**24");
}

inline Edges read_edges(const Fields& from) {
  Edges edges;
  from("neighbors", edges.neighbors)("scores", edges.scores);
  return edges;
}

// counts: [4, num_walks]
inline WalkResult walk_result_at(uintptr_t nodes, uintptr_t counts, int64_t num_walks) {
  auto* count = pointer<int64_t>(counts);
  return {pointer<int32_t>(nodes), count, count + num_walks, count + 2 * num_walks, count + 3 * num_walks};
}

}  // namespace bse

// Reads the requests of batchsampler_ext/_engine/requests.py: named tuples whose fields are those of
// csrc/common/requests.h and csrc/common/layouts.h. Addresses are integers.
//
// batchsampler_ext/*.py validates arguments and words the errors. A failed check here is a bug in the caller.
#pragma once

#include <pybind11/pybind11.h>

#include "common/random_stream.h"
#include "common/requests.h"
#include "python/pointers.h"

namespace bse {

template <class T>
void read(const pybind11::handle& object, const char* name, T& field) {
  field = object.attr(name).cast<T>();
}

template <class T>
void read(const pybind11::handle& object, const char* name, T*& field) {
  field = pointer<T>(object.attr(name).cast<uintptr_t>());
}

inline void read(const pybind11::handle& object, const char* name, MatrixLayout& matrix) {
  const pybind11::object layout = object.attr(name);
  read(layout, "address", matrix.data);
  matrix.dtype = dtype_of_code(layout.attr("dtype_code").cast<int>());
  read(layout, "num_rows", matrix.num_rows);
  read(layout, "dim", matrix.dim);
  read(layout, "row_stride", matrix.row_stride_elements);
  read(layout, "round_to_bf16", matrix.round_to_bf16);
  require(matrix.data != nullptr && matrix.num_rows > 0 && matrix.dim > 0, "a matrix that is not empty");
}

// The matrix `name`, or `other` if it is None. Returns whether there is one.
template <class Matrix>
bool read_optional(const pybind11::handle& object, const char* name, Matrix& matrix, const Matrix& other) {
  matrix = other;
  if (object.attr(name).is_none()) return false;
  read(object, name, static_cast<MatrixLayout&>(matrix));
  require(matrix.dim == other.dim, "two matrices of one width");
  return true;
}

inline void read(const pybind11::handle& layout, GraphLayout& graph) {
  read(layout, "neighbors", graph.neighbors);
  read(layout, "num_rows", graph.num_rows);
  read(layout, "num_neighbors", graph.num_neighbors);
  read(layout, "degrees", graph.degrees);
  read(layout, "row_of", graph.row_of);
  read(layout, "num_instances", graph.num_instances);
  require(graph.num_rows > 0 && graph.num_instances < int64_t{1} << 31, "1 <= rows and fewer than 2**31 instances");
}

inline void read(const pybind11::handle& object, const char* name, Selection& selection) {
  const pybind11::object fields = object.attr(name);
  const int metric = fields.attr("metric").cast<int>();
  selection.metric = static_cast<Metric>(metric);
  read(fields, "num_neighbors", selection.num_neighbors);
  read(fields, "range_min", selection.range_min);
  read(fields, "labels", selection.labels);
  selection.has_max_score = !fields.attr("max_score").is_none();
  if (selection.has_max_score) read(fields, "max_score", selection.max_score);
  read(fields, "sort", selection.sort);
  require(metric >= 0 && metric <= 2 && selection.num_neighbors > 0 && selection.range_min >= 0,
          "a metric code, K > 0, range_min >= 0");
}

// Tables: an engine's BankTables.
template <class Tables>
void read_tables(const pybind11::handle& object, Tables& bank) {
  read(object, "data", bank.data);
  read(object, "documents", bank.documents);
  bank.dtype = dtype_of_code(object.attr("dtype_code").cast<int>());
  read(object, "num_instances", bank.num_instances);
  read(object, "dim", bank.dim);
  read(object, "last_update", bank.last_update);
}

template <class Matrix>
void read(const pybind11::handle& object, BasicProximityGraphRequest<Matrix>& request) {
  read(object, "features", static_cast<MatrixLayout&>(request.features));
  request.two_towers = read_optional(object, "documents", request.documents, request.features);
  read(object, "rows", request.rows);
  read(object, "num_rows", request.num_rows);
  read(object, "num_candidates", request.num_candidates);
  read(object, "candidate_group_size", request.candidate_group_size);
  read(object, "selection", request.selection);
  read(object, "seed", request.seed);
  require(request.num_candidates > 0 && request.num_candidates < request.num_rows, "0 < M < number of rows");
  require(request.selection.num_neighbors <= request.num_candidates && request.candidate_group_size > 0,
          "K <= M, positive counts");
}

template <class Matrix>
void read(const pybind11::handle& object, BasicKnnRequest<Matrix>& request) {
  read(object, "queries", static_cast<MatrixLayout&>(request.queries));
  request.separate_base = read_optional(object, "base", request.base, request.queries);
  read(object, "query_ids", request.query_ids);
  read(object, "num_queries", request.num_queries);
  read(object, "base_ids", request.base_ids);
  read(object, "num_base", request.num_base);
  read(object, "exclude_self", request.exclude_self);
  read(object, "selection", request.selection);
  require(request.num_queries > 0 && request.num_base > 0, "positive counts");
}

template <class Graph>
void read(const pybind11::handle& object, BasicWalkRequest<Graph>& request) {
  read(object.attr("graph"), static_cast<GraphLayout&>(request.graph));
  const int strategy = object.attr("strategy").cast<int>();
  request.strategy = static_cast<Strategy>(strategy);
  read(object, "roots", request.roots);
  read(object, "walk_ids", request.walk_ids);
  read(object, "num_walks", request.num_walks);
  read(object, "batch_size", request.batch_size);
  read(object, "restart_threshold", request.restart_threshold);
  read(object, "seed", request.seed);
  read(object, "epoch", request.epoch);
  require(strategy >= 0 && strategy <= 4, "a strategy code from 0 to 4");
  require(request.batch_size > 0 && request.num_walks >= 0 && request.epoch < kEpochLimit,
          "positive counts and an epoch below 2**24");
}

template <class Graph>
void read(const pybind11::handle& object, BasicPartitionRequest<Graph>& request) {
  read(object.attr("graph"), static_cast<GraphLayout&>(request.graph));
  read(object, "batch_size", request.batch_size);
  read(object, "restart_threshold", request.restart_threshold);
  read(object, "drop_last", request.drop_last);
  const int hardness = object.attr("hardness").cast<int>();
  request.hardness = static_cast<Hardness>(hardness);
  read(object, "seed", request.seed);
  read(object, "epoch", request.epoch);
  require(hardness >= 0 && hardness <= 2, "a hardness code from 0 to 2");
  require(request.batch_size > 0 && request.epoch < kEpochLimit, "a positive batch size and an epoch below 2**24");
}

inline Edges edges_at(uintptr_t neighbors, uintptr_t scores) {
  return {pointer<int32_t>(neighbors), pointer<float>(scores)};
}

// counts: [4, num_walks]
inline WalkResult walk_result_at(uintptr_t nodes, uintptr_t counts, int64_t num_walks) {
  auto* count = pointer<int64_t>(counts);
  return {pointer<int32_t>(nodes), count, count + num_walks, count + 2 * num_walks, count + 3 * num_walks};
}

}  // namespace bse

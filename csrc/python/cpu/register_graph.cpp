#include "cpu/search/search.h"
#include "python/cpu/bindings.h"
#include "python/cpu/monitor.h"
#include "python/selection_argument.h"

namespace py = pybind11;

namespace bse {

namespace {

void core_proximity_graph(const py::tuple& features, const py::object& documents, uintptr_t rows, int64_t num_rows,
                          int64_t num_neighbors, int64_t num_candidates, int64_t candidate_group_size, int metric,
                          uintptr_t labels, const py::object& max_score, int64_t range_min, bool sort, uint64_t seed,
                          int num_threads, int64_t max_memory, const py::object& progress, uintptr_t neighbors,
                          uintptr_t scores) {
  ProximityGraphRequest request;
  request.features = matrix_view<MatrixView>(features);
  request.two_towers = !documents.is_none();
  request.documents = request.two_towers ? matrix_view<MatrixView>(documents.cast<py::tuple>()) : request.features;
  request.rows = pointer<const int64_t>(rows);
  request.num_rows = num_rows;
  request.num_candidates = num_candidates;
  request.candidate_group_size = candidate_group_size;
  request.selection = make_selection(metric, num_neighbors, range_min, labels, max_score, sort);
  request.seed = seed;
  request.num_threads = num_threads;
  request.max_memory_bytes = max_memory;
  require(num_rows > 1 && num_candidates > 0 && num_candidates < num_rows, "0 < M < number of rows");
  require(num_neighbors <= num_candidates && candidate_group_size > 0 && num_threads > 0, "K <= M, positive counts");
  require(request.documents.dim == request.features.dim, "documents as wide as features");
  PythonMonitor monitor(progress, num_rows);
  monitor.run([&] { proximity_graph(request, {pointer<int32_t>(neighbors), pointer<float>(scores)}, monitor); });
}

void core_knn(const py::tuple& queries, const py::object& base, uintptr_t query_ids, int64_t num_queries,
              uintptr_t base_ids, int64_t num_base, bool exclude_self, int64_t num_neighbors, int metric,
              uintptr_t labels, const py::object& max_score, int64_t range_min, int num_threads, int64_t max_memory,
              const py::object& progress, uintptr_t neighbors, uintptr_t scores) {
  KnnRequest request;
  request.queries = matrix_view<MatrixView>(queries);
  request.separate_base = !base.is_none();
  request.base = request.separate_base ? matrix_view<MatrixView>(base.cast<py::tuple>()) : request.queries;
  request.query_ids = pointer<const int64_t>(query_ids);
  request.num_queries = num_queries;
  request.base_ids = pointer<const int64_t>(base_ids);
  request.num_base = num_base;
  request.exclude_self = exclude_self;
  request.selection = make_selection(metric, num_neighbors, range_min, labels, max_score, true);
  request.num_threads = num_threads;
  request.max_memory_bytes = max_memory;
  require(num_queries > 0 && num_base > 0 && num_threads > 0, "positive counts");
  require(request.base.dim == request.queries.dim, "base as wide as queries");
  PythonMonitor monitor(progress, num_queries);
  monitor.run([&] { knn(request, {pointer<int32_t>(neighbors), pointer<float>(scores)}, monitor); });
}

}  // namespace

void register_graph(py::module_& module) {
  module.def("proximity_graph", &core_proximity_graph, py::kw_only(), py::arg("features"), py::arg("documents"),
             py::arg("rows"), py::arg("num_rows"), py::arg("num_neighbors"), py::arg("num_candidates"),
             py::arg("candidate_group_size"), py::arg("metric"), py::arg("labels"), py::arg("max_score"),
             py::arg("range_min"), py::arg("sort"), py::arg("seed"), py::arg("num_threads"), py::arg("max_memory"),
             py::arg("progress"), py::arg("neighbors"), py::arg("scores"),
             "neighbors: int32 [num_rows, K]; scores: float32 [num_rows, K] or 0");
  module.def("knn", &core_knn, py::kw_only(), py::arg("queries"), py::arg("base"), py::arg("query_ids"),
             py::arg("num_queries"), py::arg("base_ids"), py::arg("num_base"), py::arg("exclude_self"),
             py::arg("num_neighbors"), py::arg("metric"), py::arg("labels"), py::arg("max_score"), py::arg("range_min"),
             py::arg("num_threads"), py::arg("max_memory"), py::arg("progress"), py::arg("neighbors"),
             py::arg("scores"), "neighbors: int32 [num_queries, K]; scores: float32 [num_queries, K] or 0");
}

}  // namespace bse

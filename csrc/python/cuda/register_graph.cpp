#include "cuda/search/search.h"
#include "python/cuda/bindings.h"
#include "python/pointers.h"
#include "python/selection_argument.h"

namespace py = pybind11;

namespace bse {

namespace {

cuda::Edges make_edges(uintptr_t neighbors, uintptr_t scores) {
  return {pointer<int32_t>(neighbors), pointer<float>(scores)};
}

// A request that has been checked, and how much scratch it takes.
class ProximityGraphCall {
 public:
  ProximityGraphCall(const py::tuple& features, const py::object& documents, uintptr_t rows, int64_t num_rows,
                     int64_t num_neighbors, int64_t num_candidates, int64_t candidate_group_size, int metric,
                     uintptr_t labels, const py::object& max_score, int64_t range_min, bool sort, bool has_scores,
                     uint64_t seed, int64_t max_memory) {
    request_.features = matrix_view<cuda::DeviceMatrix>(features);
    request_.two_towers = !documents.is_none();
    request_.documents =
        documents.is_none() ? request_.features : matrix_view<cuda::DeviceMatrix>(documents.cast<py::tuple>());
    request_.rows = pointer<const int64_t>(rows);
    request_.num_rows = num_rows;
    request_.num_candidates = num_candidates;
    request_.candidate_group_size = candidate_group_size;
    request_.selection = make_selection(metric, num_neighbors, range_min, labels, max_score, sort);
    request_.has_scores = has_scores;
    request_.seed = seed;
    require(num_rows > 1 && num_candidates > 0 && num_candidates < num_rows, "0 < M < number of rows");
    require(num_neighbors <= num_candidates && candidate_group_size > 0 && max_memory > 0, "K <= M, positive counts");
    require(request_.documents.dim == request_.features.dim, "documents as wide as features");
    plan_ = cuda::plan_proximity_graph(request_, static_cast<size_t>(max_memory));
  }

  size_t scratch_bytes() const { return plan_.scratch_bytes; }

  void run(uintptr_t neighbors, uintptr_t scores, uintptr_t scratch, uintptr_t status, uintptr_t stream) const {
    const py::gil_scoped_release no_gil;
    cuda::proximity_graph(request_, plan_, make_edges(neighbors, scores), pointer<void>(scratch),
                          pointer<uint64_t>(status), pointer<void>(stream));
  }

 private:
  cuda::GraphRequest request_;
  cuda::GraphPlan plan_;
};

class KnnCall {
 public:
  KnnCall(const py::tuple& queries, const py::object& base, uintptr_t query_ids, int64_t num_queries,
          uintptr_t base_ids, int64_t num_base, bool exclude_self, int64_t num_neighbors, int metric, uintptr_t labels,
          const py::object& max_score, int64_t range_min, int64_t max_memory) {
    request_.queries = matrix_view<cuda::DeviceMatrix>(queries);
    request_.separate_base = !base.is_none();
    request_.base = base.is_none() ? request_.queries : matrix_view<cuda::DeviceMatrix>(base.cast<py::tuple>());
    request_.query_ids = pointer<const int64_t>(query_ids);
    request_.num_queries = num_queries;
    request_.base_ids = pointer<const int64_t>(base_ids);
    request_.num_base = num_base;
    request_.exclude_self = exclude_self;
    request_.selection = make_selection(metric, num_neighbors, range_min, labels, max_score, true);
    require(num_queries > 0 && num_base > 0 && max_memory > 0, "positive counts");
    require(request_.base.dim == request_.queries.dim, "base as wide as queries");
    plan_ = cuda::plan_knn(request_, static_cast<size_t>(max_memory));
  }

  size_t scratch_bytes() const { return plan_.scratch_bytes; }

  void run(uintptr_t neighbors, uintptr_t scores, uintptr_t scratch, uintptr_t status, uintptr_t stream) const {
    const py::gil_scoped_release no_gil;
    cuda::knn(request_, plan_, make_edges(neighbors, scores), pointer<void>(scratch), pointer<uint64_t>(status),
              pointer<void>(stream));
  }

 private:
  cuda::KnnRequest request_;
  cuda::KnnPlan plan_;
};

template <class Call>
void add_run(py::class_<Call>& call) {
  call.def_property_readonly("scratch_bytes", &Call::scratch_bytes, "bytes of device memory that run() takes");
  call.def(
      "run", &Call::run, py::kw_only(), py::arg("neighbors"), py::arg("scores"), py::arg("scratch"), py::arg("status"),
      py::arg("stream"),
      "Queues the work.   neighbors: int32 [R, K]; scores: float32 [R, K] or 0; status: uint64 [num_status_words]");
}

}  // namespace

void register_cuda_graph(py::module_& module) {
  py::class_<ProximityGraphCall> graph(module, "ProximityGraphCall");
  graph.def(py::init<const py::tuple&, const py::object&, uintptr_t, int64_t, int64_t, int64_t, int64_t, int, uintptr_t,
                     const py::object&, int64_t, bool, bool, uint64_t, int64_t>(),
            py::kw_only(), py::arg("features"), py::arg("documents"), py::arg("rows"), py::arg("num_rows"),
            py::arg("num_neighbors"), py::arg("num_candidates"), py::arg("candidate_group_size"), py::arg("metric"),
            py::arg("labels"), py::arg("max_score"), py::arg("range_min"), py::arg("sort"), py::arg("has_scores"),
            py::arg("seed"), py::arg("max_memory"));
  add_run(graph);
  py::class_<KnnCall> knn(module, "KnnCall");
  knn.def(py::init<const py::tuple&, const py::object&, uintptr_t, int64_t, uintptr_t, int64_t, bool, int64_t, int,
                   uintptr_t, const py::object&, int64_t, int64_t>(),
          py::kw_only(), py::arg("queries"), py::arg("base"), py::arg("query_ids"), py::arg("num_queries"),
          py::arg("base_ids"), py::arg("num_base"), py::arg("exclude_self"), py::arg("num_neighbors"),
          py::arg("metric"), py::arg("labels"), py::arg("max_score"), py::arg("range_min"), py::arg("max_memory"));
  add_run(knn);
}

}  // namespace bse

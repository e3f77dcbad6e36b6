#include "cuda/graph/mutual_edges.h"
#include "cuda/search/search.h"
#include "python/bindings.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

// A request that has been checked, and its plan.
template <class Request, class Plan, Plan (*make_plan)(const Request&, size_t),
          void (*queue)(const Request&, const Plan&, const Edges&, void*, uint64_t*, void*)>
class EdgesCall {
 public:
  EdgesCall(const Request& request, int64_t max_memory) : request_(request) {
    require(max_memory > 0, "a positive max_memory");
    plan_ = make_plan(request_, static_cast<size_t>(max_memory));
  }

  size_t scratch_bytes() const { return plan_.scratch_bytes; }

  void run(const py::object& fields, uintptr_t scratch, uintptr_t status, uintptr_t stream) const {
    const Edges edges = read_edges(Fields(fields));
    const py::gil_scoped_release no_gil;
    queue(request_, plan_, edges, pointer<void>(scratch), pointer<uint64_t>(status), pointer<void>(stream));
  }

 private:
  Request request_;
  Plan plan_;
};

cuda::GraphPlan plan_proximity_graph(const cuda::ProximityGraphRequest& request, size_t max_memory) {
  return cuda::plan_proximity_graph(request, max_memory);
}

cuda::KnnPlan plan_knn(const cuda::KnnRequest& request, size_t max_memory) {
  return cuda::plan_knn(request, max_memory);
}

using ProximityGraphCall =
    EdgesCall<cuda::ProximityGraphRequest, cuda::GraphPlan, plan_proximity_graph, cuda::proximity_graph>;
using KnnCall = EdgesCall<cuda::KnnRequest, cuda::KnnPlan, plan_knn, cuda::knn>;

void cuda_mutual_edges(const py::object& fields, const py::object& edges, uintptr_t degrees, uintptr_t status,
                       uintptr_t stream) {
  cuda::MutualEdgesRequest request;
  read(Fields(fields), request);
  const Edges result = read_edges(Fields(edges));
  require((request.scores != nullptr) == (result.scores != nullptr), "scores of both graphs, or of neither");
  const py::gil_scoped_release no_gil;
  cuda::launch_mutual_edges(request, result, pointer<int32_t>(degrees), pointer<uint64_t>(status),
                            pointer<void>(stream));
}

void cuda_group_order(int64_t n, uint64_t seed, uintptr_t out, uintptr_t stream) {
  require(n > 0 && n < int64_t{1} << 31, "0 < n < 2**31");
  cuda::launch_group_order(n, seed, pointer<uint32_t>(out), pointer<void>(stream));
}

ProximityGraphCall proximity_graph_call(const py::object& fields, bool has_scores, int64_t max_memory) {
  cuda::ProximityGraphRequest request;
  read(Fields(fields), request);
  request.has_scores = has_scores;
  return {request, max_memory};
}

KnnCall knn_call(const py::object& fields, int64_t max_memory) {
  cuda::KnnRequest request;
  read(Fields(fields), request);
  return {request, max_memory};
}

template <class Call>
py::class_<Call> register_call(py::module_& module, const char* name) {
  return py::class_<Call>(module, name)
      .def_property_readonly("scratch_bytes", &Call::scratch_bytes, "bytes of device memory that run() takes")
      .def("run", &Call::run, py::kw_only(), py::arg("edges"), py::arg("scratch"), py::arg("status"), py::arg("stream"),
           "Queues the work.   edges: int32 [R, K] neighbors, float32 [R, K] scores or 0; status: uint64 "
           "[num_status_words]");
}

}  // namespace

void register_cuda_graph(py::module_& module) {
  register_call<ProximityGraphCall>(module, "ProximityGraphCall")
      .def(py::init(&proximity_graph_call), py::arg("request"), py::kw_only(), py::arg("has_scores"),
           py::arg("max_memory"));
  register_call<KnnCall>(module, "KnnCall")
      .def(py::init(&knn_call), py::arg("request"), py::kw_only(), py::arg("max_memory"));
  module.def("mutual_edges", &cuda_mutual_edges, py::arg("request"), py::arg("edges"), py::kw_only(),
             py::arg("degrees"), py::arg("status"), py::arg("stream"),
             "edges: int32 [R, K] neighbors; float32 [R, K] scores or 0; degrees: int32 [R]; status: uint64 "
             "[num_status_words]");
  module.def("group_order", &cuda_group_order, py::kw_only(), py::arg("n"), py::arg("seed"), py::arg("out"),
             py::arg("stream"), "out: int32 [n]");
}

}  // namespace bse

#include "cpu/search/search.h"
#include "python/cpu/bindings.h"
#include "python/cpu/monitor.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

// Request: with fields num_threads and max_memory_bytes
template <class Request>
Request cpu_request(const py::object& fields, int num_threads, int64_t max_memory) {
  Request request;
  read(fields, request);
  request.num_threads = num_threads;
  request.max_memory_bytes = max_memory;
  require(num_threads > 0 && max_memory > 0, "positive counts");
  return request;
}

void core_proximity_graph(const py::object& fields, uintptr_t neighbors, uintptr_t scores, int num_threads,
                          int64_t max_memory, const py::object& progress) {
  const auto request = cpu_request<ProximityGraphRequest>(fields, num_threads, max_memory);
  PythonMonitor monitor(progress, request.num_rows);
  monitor.run([&] { proximity_graph(request, edges_at(neighbors, scores), monitor); });
}

void core_knn(const py::object& fields, uintptr_t neighbors, uintptr_t scores, int num_threads, int64_t max_memory,
              const py::object& progress) {
  const auto request = cpu_request<KnnRequest>(fields, num_threads, max_memory);
  PythonMonitor monitor(progress, request.num_queries);
  monitor.run([&] { knn(request, edges_at(neighbors, scores), monitor); });
}

}  // namespace

void register_graph(py::module_& module) {
  const auto define = [&](const char* name, auto function) {
    module.def(name, function, py::arg("request"), py::kw_only(), py::arg("neighbors"), py::arg("scores"),
               py::arg("num_threads"), py::arg("max_memory"), py::arg("progress"),
               "neighbors: int32 [R, K]; scores: float32 [R, K] or 0");
  };
  define("proximity_graph", &core_proximity_graph);
  define("knn", &core_knn);
}

}  // namespace bse

#include "cpu/graph/mutual_edges.h"
#include "cpu/search/search.h"
#include "python/bindings.h"
#include "python/cpu/monitor.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

// search: proximity_graph() or knn(); num_rows(request): rows that it writes
template <class Request, class Search, class NumRows>
void find_edges(const py::object& fields, const py::object& edges, const py::object& resources, const Search& search,
                const NumRows& num_rows) {
  Request request;
  read(Fields(fields), request);
  const Fields from(resources);
  from("num_threads", request.num_threads)("max_memory", request.max_memory_bytes);
  require(request.num_threads > 0 && request.max_memory_bytes > 0, "positive counts");
  py::object progress;
  from("progress", progress);
  PythonMonitor monitor(progress, num_rows(request));
  const Edges result = read_edges(Fields(edges));
  monitor.run([&] { search(request, result, monitor); });
}

void core_proximity_graph(const py::object& request, const py::object& edges, const py::object& resources) {
  find_edges<ProximityGraphRequest>(request, edges, resources, proximity_graph, [](const auto& checked) {
    return checked.end_position() - checked.first_position();
  });
}

void core_knn(const py::object& request, const py::object& edges, const py::object& resources) {
  find_edges<KnnRequest>(request, edges, resources, knn, [](const auto& checked) { return checked.num_queries; });
}

void core_knn_of_lists(const py::object& fields, const py::object& edges, const py::object& resources, uintptr_t lists,
                       int64_t list_size) {
  const auto search = [&](KnnOfListsRequest& request, const Edges& result, Monitor& monitor) {
    require(request.query_ids != nullptr && request.exclude_self && list_size > 0,
            "ids of queries, a base without the query itself, and lists");
    request.lists = pointer<int32_t>(lists);
    request.list_size = list_size;
    knn_of_lists(request, result, monitor);
  };
  find_edges<KnnOfListsRequest>(fields, edges, resources, search,
                                [](const auto& checked) { return checked.num_queries; });
}

void core_mutual_edges(const py::object& fields, const py::object& edges, int num_threads, uintptr_t degrees) {
  MutualEdgesRequest request;
  read(Fields(fields), request);
  const Edges result = read_edges(Fields(edges));
  require(num_threads > 0, "positive counts");
  require((request.scores != nullptr) == (result.scores != nullptr), "scores of both graphs, or of neither");
  PythonMonitor monitor(py::none(), request.graph.num_rows);
  monitor.run([&] {
    ThreadTeam team(num_threads, monitor);
    mutual_edges(team, request, result, pointer<int32_t>(degrees));
  });
}

}  // namespace

void register_graph(py::module_& module) {
  const char* const description = "edges: int32 [R, K] neighbors; float32 [R, K] scores or 0";
  module.def("proximity_graph", &core_proximity_graph, py::arg("request"), py::arg("edges"), py::arg("resources"),
             description);
  module.def("knn", &core_knn, py::arg("request"), py::arg("edges"), py::arg("resources"), description);
  module.def("knn_of_lists", &core_knn_of_lists, py::arg("request"), py::arg("edges"), py::arg("resources"),
             py::kw_only(), py::arg("lists"), py::arg("list_size"),
             "edges: int32 [R, K] neighbors; float32 [R, K] scores or 0; lists: int32 [R, list_size] places in "
             "base_ids or -1");
  module.def("mutual_edges", &core_mutual_edges, py::arg("request"), py::arg("edges"), py::kw_only(),
             py::arg("num_threads"), py::arg("degrees"),
             "edges: int32 [R, K] neighbors; float32 [R, K] scores or 0; degrees: int32 [R]");
}

}  // namespace bse

#include "cpu/partition/communities.h"
#include "cpu/partition/keep_apart.h"
#include "cpu/walk/batch_walks.h"
#include "cpu/walk/row_degrees.h"
#include "python/bindings.h"
#include "python/cpu/monitor.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

void core_row_degrees(const py::object& fields, int num_threads, uintptr_t degrees) {
  GraphView graph;
  read(Fields(fields), graph);
  PythonMonitor monitor(py::none(), graph.num_rows);
  monitor.run([&] {
    ThreadTeam team(num_threads, monitor);
    row_degrees(team, graph, pointer<int32_t>(degrees));
  });
}

void core_walk_batches(const py::object& fields, int num_threads, uintptr_t nodes, uintptr_t counts) {
  const Fields from(fields);
  WalkRequest request;
  read(from, request);
  from("finds_degrees", request.graph.finds_degrees);
  request.num_threads = num_threads;
  require(num_threads > 0, "positive counts");
  for (int64_t w = 0; w < request.num_walks; ++w) {
    require(request.roots[w] >= 0 && request.roots[w] < request.graph.num_rows, "roots that are rows");
  }
  PythonMonitor monitor(py::none(), request.num_walks);
  monitor.run([&] { walk_batches(request, walk_result_at(nodes, counts, request.num_walks), monitor); });
}

int64_t core_partition_epoch(const py::object& fields, int num_threads, uintptr_t nodes) {
  PartitionRequest request;
  read(Fields(fields), request);
  request.num_threads = num_threads;
  require(num_threads > 0, "positive counts");
  int64_t num_filled = 0;
  PythonMonitor monitor(py::none(), request.graph.num_rows);
  monitor.run([&] { num_filled = partition_epoch(request, pointer<int32_t>(nodes), monitor); });
  return num_filled;
}

void core_communities(const py::object& fields, int num_threads, uintptr_t rows) {
  CommunitiesRequest request;
  const Fields from(fields);
  read(from.inner("graph"), request.graph);
  from("size", request.size)("key", request.key);
  request.num_threads = num_threads;
  require(num_threads > 0 && request.size > 0, "positive counts");
  PythonMonitor monitor(py::none(), request.graph.num_rows);
  monitor.run([&] { communities(request, pointer<int32_t>(rows), monitor); });
}

py::tuple core_keep_apart(const py::object& fields) {
  KeepApartRequest request;
  const Fields from(fields);
  from("members", request.members)("num_members", request.num_members)("starts", request.starts);
  from("num_batches", request.num_batches)("codes", request.codes)("num_columns", request.num_columns);
  from("num_codes", request.num_codes)("max_per_batch", request.max_per_batch);
  from("partner_offsets", request.partner_offsets)("partners", request.partners);
  from("neighbors", request.neighbors)("num_neighbors", request.num_neighbors);
  from("num_instances", request.num_instances)("key", request.key);
  require(request.num_batches > 0 && request.max_per_batch > 0, "positive counts");
  KeepApartResult result{};
  PythonMonitor monitor(py::none(), request.num_members);
  monitor.run([&] { result = keep_apart(request, monitor); });
  return py::make_tuple(result.excess, result.num_met);
}

}  // namespace

void register_walk(py::module_& module) {
  module.def("row_degrees", &core_row_degrees, py::arg("graph"), py::kw_only(), py::arg("num_threads"),
             py::arg("degrees"), "degrees: int32 [num_rows]");
  module.def("walk_batches", &core_walk_batches, py::arg("request"), py::kw_only(), py::arg("num_threads"),
             py::arg("nodes"), py::arg("counts"),
             "nodes: int32 [num_walks, batch_size] rows; counts: int64 [4, num_walks] steps, restarts, reroots, "
             "random_fills");
  module.def("partition_epoch", &core_partition_epoch, py::arg("request"), py::kw_only(), py::arg("num_threads"),
             py::arg("nodes"), "nodes: int32 rows, batch after batch. Returns the number of random fills.");
  module.def("communities", &core_communities, py::arg("request"), py::kw_only(), py::arg("num_threads"),
             py::arg("rows"), "rows: int32 [num_rows], community after community, the ragged one last");
  module.def("keep_apart", &core_keep_apart, py::arg("request"),
             "Swaps members between batches. Returns the excess of ids that is left, and pairs of partners that meet.");
}

}  // namespace bse

#include "common/random_stream.h"
#include "cpu/walk/batch_walks.h"
#include "cpu/walk/row_degrees.h"
#include "python/cpu/bindings.h"
#include "python/cpu/monitor.h"

namespace py = pybind11;

namespace bse {

namespace {

void core_row_degrees(const py::tuple& graph, int num_threads, uintptr_t degrees) {
  const GraphView view = graph_view<GraphView>(graph);
  PythonMonitor monitor(py::none(), view.num_rows);
  monitor.run([&] {
    ThreadTeam team(num_threads, monitor);
    row_degrees(team, view, pointer<int32_t>(degrees));
  });
}

void core_walk_batches(const py::tuple& graph, bool finds_degrees, int strategy, uintptr_t roots, uintptr_t walk_ids,
                       int64_t num_walks, int64_t batch_size, uint32_t restart_threshold, uint64_t seed, uint32_t epoch,
                       int num_threads, uintptr_t nodes, uintptr_t counts) {
  WalkRequest request;
  request.graph = graph_view<GraphView>(graph);
  request.graph.finds_degrees = finds_degrees;
  require(strategy >= 0 && strategy <= 4, "a strategy code from 0 to 4");
  request.strategy = static_cast<Strategy>(strategy);
  request.roots = pointer<const int64_t>(roots);
  request.walk_ids = pointer<const int64_t>(walk_ids);
  request.num_walks = num_walks;
  request.batch_size = batch_size;
  request.restart_threshold = restart_threshold;
  request.seed = seed;
  request.epoch = epoch;
  request.num_threads = num_threads;
  require(batch_size > 0 && num_threads > 0 && epoch < kEpochLimit, "positive counts and an epoch below 2**24");
  for (int64_t w = 0; w < num_walks; ++w) {
    require(request.roots[w] >= 0 && request.roots[w] < request.graph.num_rows, "roots that are rows");
  }
  auto* count = pointer<int64_t>(counts);  // [4, num_walks]
  PythonMonitor monitor(py::none(), num_walks);
  monitor.run([&] {
    walk_batches(request,
                 {pointer<int32_t>(nodes), count, count + num_walks, count + 2 * num_walks, count + 3 * num_walks},
                 monitor);
  });
}

int64_t core_partition_epoch(const py::tuple& graph, int64_t batch_size, uint32_t restart_threshold, bool drop_last,
                             int hardness, uint64_t seed, uint32_t epoch, int num_threads, uintptr_t nodes) {
  PartitionRequest request;
  request.graph = graph_view<GraphView>(graph);
  request.batch_size = batch_size;
  request.restart_threshold = restart_threshold;
  request.drop_last = drop_last;
  require(hardness >= 0 && hardness <= 2, "a hardness code from 0 to 2");
  request.hardness = static_cast<Hardness>(hardness);
  request.seed = seed;
  request.epoch = epoch;
  request.num_threads = num_threads;
  require(batch_size > 0 && num_threads > 0 && epoch < kEpochLimit, "positive counts and an epoch below 2**24");
  int64_t num_filled = 0;
  PythonMonitor monitor(py::none(), request.graph.num_rows);
  monitor.run([&] { num_filled = partition_epoch(request, pointer<int32_t>(nodes), monitor); });
  return num_filled;
}

}  // namespace

void register_walk(py::module_& module) {
  module.def("row_degrees", &core_row_degrees, py::kw_only(), py::arg("graph"), py::arg("num_threads"),
             py::arg("degrees"), "degrees: int32 [num_rows]");
  module.def(
      "walk_batches", &core_walk_batches, py::kw_only(), py::arg("graph"), py::arg("finds_degrees"),
      py::arg("strategy"), py::arg("roots"), py::arg("walk_ids"), py::arg("num_walks"), py::arg("batch_size"),
      py::arg("restart_threshold"), py::arg("seed"), py::arg("epoch"), py::arg("num_threads"), py::arg("nodes"),
      py::arg("counts"),
      "finds_degrees: rows may be short though the graph has no degrees. Ids are checked where walks meet them.\n"
      "nodes: int32 [num_walks, batch_size] rows; counts: int64 [4, num_walks] steps, restarts, reroots, random_fills");
  module.def("partition_epoch", &core_partition_epoch, py::kw_only(), py::arg("graph"), py::arg("batch_size"),
             py::arg("restart_threshold"), py::arg("drop_last"), py::arg("hardness"), py::arg("seed"), py::arg("epoch"),
             py::arg("num_threads"), py::arg("nodes"), "nodes: int32 rows, batch after batch. Returns rows filled in.");
}

}  // namespace bse

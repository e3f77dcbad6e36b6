#include "common/random_stream.h"
#include "common/strategy.h"
#include "cuda/walk/walks.h"
#include "python/cuda/bindings.h"
#include "python/pointers.h"

namespace py = pybind11;

namespace bse {

namespace {

void cuda_row_degrees(const py::tuple& graph, uintptr_t degrees, uintptr_t status, uintptr_t stream) {
  const auto view = graph_view<cuda::GraphView>(graph);
  const py::gil_scoped_release no_gil;
  cuda::launch_row_degrees(view, pointer<int32_t>(degrees), pointer<uint64_t>(status), pointer<void>(stream));
}

class WalkCall {
 public:
  WalkCall(const py::tuple& graph, int strategy, uintptr_t roots, uintptr_t walk_ids, int64_t num_walks,
           int64_t batch_size, uint32_t restart_threshold, uint64_t seed, uint32_t epoch) {
    request_.graph = graph_view<cuda::GraphView>(graph);
    request_.is_uniform = strategy == static_cast<int>(Strategy::kUniform);
    require(request_.is_uniform || strategy == static_cast<int>(Strategy::kWalk), "the code of rwr, rw or uniform");
    request_.roots = pointer<const int64_t>(roots);
    request_.walk_ids = pointer<const int64_t>(walk_ids);
    request_.num_walks = num_walks;
    request_.batch_size = batch_size;
    request_.restart_threshold = restart_threshold;
    request_.seed = seed;
    request_.epoch = epoch;
    require(batch_size > 0 && num_walks >= 0 && epoch < kEpochLimit, "positive counts and an epoch below 2**24");
  }

  size_t scratch_bytes() const { return cuda::walk_scratch_bytes(request_); }

  void run(uintptr_t nodes, uintptr_t counts, uintptr_t scratch, uintptr_t status, uintptr_t stream) const {
    auto* count = pointer<int64_t>(counts);
    const int64_t n = request_.num_walks;
    const py::gil_scoped_release no_gil;
    cuda::launch_walks(request_, {pointer<int32_t>(nodes), count, count + n, count + 2 * n, count + 3 * n},
                       pointer<void>(scratch), pointer<uint64_t>(status), pointer<void>(stream));
  }

 private:
  cuda::WalkRequest request_;
};

void cuda_independent_roots(int64_t n, int64_t num_walks, uint64_t seed, uint32_t epoch, uintptr_t out,
                            uintptr_t stream) {
  require(n > 0 && n < int64_t{1} << 31 && epoch < kEpochLimit, "0 < n < 2**31 and an epoch below 2**24");
  cuda::launch_independent_roots(n, num_walks, seed, epoch, pointer<int64_t>(out), pointer<void>(stream));
}

void cuda_root_order(int64_t n, uint64_t seed, uint32_t epoch, uintptr_t out, uintptr_t stream) {
  require(n > 0 && n < int64_t{1} << 31 && epoch < kEpochLimit, "0 < n < 2**31 and an epoch below 2**24");
  cuda::launch_root_order(n, seed, epoch, pointer<int64_t>(out), pointer<void>(stream));
}

}  // namespace

void register_cuda_walk(py::module_& module) {
  module.def("row_degrees", &cuda_row_degrees, py::kw_only(), py::arg("graph"), py::arg("degrees"), py::arg("status"),
             py::arg("stream"), "degrees: int32 [num_rows]; status: uint64 [num_status_words]");
  py::class_<WalkCall>(module, "WalkCall")
      .def(py::init<const py::tuple&, int, uintptr_t, uintptr_t, int64_t, int64_t, uint32_t, uint64_t, uint32_t>(),
           py::kw_only(), py::arg("graph"), py::arg("strategy"), py::arg("roots"), py::arg("walk_ids"),
           py::arg("num_walks"), py::arg("batch_size"), py::arg("restart_threshold"), py::arg("seed"), py::arg("epoch"))
      .def_property_readonly("scratch_bytes", &WalkCall::scratch_bytes, "bytes of device memory that run() takes")
      .def("run", &WalkCall::run, py::kw_only(), py::arg("nodes"), py::arg("counts"), py::arg("scratch"),
           py::arg("status"), py::arg("stream"),
           "Queues the walks.   nodes: int32 [num_walks, batch_size] rows; counts: int64 [4, num_walks] steps, "
           "restarts, "
           "reroots, random_fills");
  module.def("independent_roots", &cuda_independent_roots, py::kw_only(), py::arg("n"), py::arg("num_walks"),
             py::arg("seed"), py::arg("epoch"), py::arg("out"), py::arg("stream"), "out: int64 [num_walks]");
  module.def("root_order", &cuda_root_order, py::kw_only(), py::arg("n"), py::arg("seed"), py::arg("epoch"),
             py::arg("out"), py::arg("stream"), "out: int64 [n]");
}

}  // namespace bse

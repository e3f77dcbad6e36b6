#include "cuda/walk/walks.h"
#include "python/cuda/bindings.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

void cuda_row_degrees(const py::object& fields, uintptr_t degrees, uintptr_t status, uintptr_t stream) {
  cuda::GraphView graph;
  read(fields, graph);
  const py::gil_scoped_release no_gil;
  cuda::launch_row_degrees(graph, pointer<int32_t>(degrees), pointer<uint64_t>(status), pointer<void>(stream));
}

class WalkCall {
 public:
  explicit WalkCall(const py::object& fields) {
    read(fields, request_);
    require(request_.strategy == Strategy::kWalk || request_.strategy == Strategy::kUniform,
            "the code of rwr, rw or uniform");
  }

  size_t scratch_bytes() const { return cuda::walk_scratch_bytes(request_); }

  void run(uintptr_t nodes, uintptr_t counts, uintptr_t scratch, uintptr_t status, uintptr_t stream) const {
    const py::gil_scoped_release no_gil;
    cuda::launch_walks(request_, walk_result_at(nodes, counts, request_.num_walks), pointer<void>(scratch),
                       pointer<uint64_t>(status), pointer<void>(stream));
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
  module.def("row_degrees", &cuda_row_degrees, py::arg("graph"), py::kw_only(), py::arg("degrees"), py::arg("status"),
             py::arg("stream"), "degrees: int32 [num_rows]; status: uint64 [num_status_words]");
  py::class_<WalkCall>(module, "WalkCall")
      .def(py::init<const py::object&>(), py::arg("request"))
      .def_property_readonly("scratch_bytes", &WalkCall::scratch_bytes, "bytes of device memory that run() takes")
      .def("run", &WalkCall::run, py::kw_only(), py::arg("nodes"), py::arg("counts"), py::arg("scratch"),
           py::arg("status"), py::arg("stream"),
           "Queues the walks.   nodes: int32 [num_walks, batch_size] rows; counts: int64 [4, num_walks] steps, "
           "restarts, reroots, random_fills");
  module.def("independent_roots", &cuda_independent_roots, py::kw_only(), py::arg("n"), py::arg("num_walks"),
             py::arg("seed"), py::arg("epoch"), py::arg("out"), py::arg("stream"), "out: int64 [num_walks]");
  module.def("root_order", &cuda_root_order, py::kw_only(), py::arg("n"), py::arg("seed"), py::arg("epoch"),
             py::arg("out"), py::arg("stream"), "out: int64 [n]");
}

}  // namespace bse

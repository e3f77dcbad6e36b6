#include "cuda/partition/partition.h"
#include "python/cuda/bindings.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

// Counters as Python reads them: read(device address, count) -> list of int, after the work queued so far.
class PythonReader : public cuda::CounterReader {
 public:
  explicit PythonReader(py::object read) : read_(std::move(read)) {}

  void read(int64_t* host, const int64_t* device, int64_t count) override {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const auto values = read_(reinterpret_cast<uintptr_t>(device), count).cast<py::sequence>();
    for (int64_t i = 0; i < count; ++i) host[i] = values[static_cast<size_t>(i)].cast<int64_t>();
  }

 private:
  py::object read_;
};

class PartitionCall {
 public:
  explicit PartitionCall(const py::object& fields) { read(fields, request_); }

  int64_t num_reference_walks() const { return cuda::num_reference_walks(request_); }
  size_t scratch_bytes() const { return cuda::partition_scratch_bytes(request_); }

  int64_t run(uintptr_t walk_nodes, uintptr_t nodes, uintptr_t scratch, uintptr_t status, uintptr_t stream,
              const py::object& read) const {
    cuda::PartitionRequest request = request_;
    request.walk_nodes = pointer<const int32_t>(walk_nodes);
    PythonReader reader(read);
    const py::gil_scoped_release no_gil;
    return cuda::partition_epoch(request, pointer<int32_t>(nodes), pointer<void>(scratch), pointer<uint64_t>(status),
                                 pointer<void>(stream), reader);
  }

 private:
  cuda::PartitionRequest request_;
};

}  // namespace

void register_cuda_partition(py::module_& module) {
  py::class_<PartitionCall>(module, "PartitionCall")
      .def(py::init<const py::object&>(), py::arg("request"))
      .def_property_readonly("num_reference_walks", &PartitionCall::num_reference_walks,
                             "walks from the first rows of the root order that run() compares batches with")
      .def_property_readonly("scratch_bytes", &PartitionCall::scratch_bytes, "bytes of device memory that run() takes")
      .def("run", &PartitionCall::run, py::kw_only(), py::arg("walk_nodes"), py::arg("nodes"), py::arg("scratch"),
           py::arg("status"), py::arg("stream"), py::arg("read"),
           "Rows filled in at random.   walk_nodes: int32 [num_reference_walks, batch_size]; nodes: int32 rows, batch "
           "after batch; read(address, count): int64 counters in device memory, as a list, after what is queued");
}

}  // namespace bse

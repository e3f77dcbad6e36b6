#include "cuda/bank/bank_update.h"
#include "python/cuda/bindings.h"
#include "python/pointers.h"

namespace py = pybind11;

namespace bse {

namespace {

void cuda_update_bank(uintptr_t data, uintptr_t documents, int dtype, int64_t num_instances, int64_t dim,
                      uintptr_t last_update, uintptr_t claims, uintptr_t ids, const py::tuple& rows,
                      const py::object& document_rows, int64_t step, uint32_t update_number, float momentum,
                      bool normalize, bool skips, uintptr_t error_log, uintptr_t scratch, uintptr_t stream) {
  require((documents == 0) == document_rows.is_none(), "documents exactly where the bank has them");
  cuda::BankTables bank;
  bank.data = pointer<void>(data);
  bank.documents = pointer<void>(documents);
  bank.dtype = dtype_of_code(dtype);
  bank.num_instances = num_instances;
  bank.dim = dim;
  bank.last_update = pointer<int64_t>(last_update);
  bank.claims = pointer<uint64_t>(claims);
  cuda::BankUpdate update;
  update.ids = pointer<const int64_t>(ids);
  update.rows = matrix_view<cuda::DeviceMatrix>(rows);
  if (documents != 0) update.document_rows = matrix_view<cuda::DeviceMatrix>(document_rows.cast<py::tuple>());
  update.num_rows = update.rows.num_rows;
  update.step = step;
  update.update_number = update_number;
  update.momentum = momentum;
  update.normalize = normalize;
  update.skips = skips;
  const auto fits = [&](const cuda::DeviceMatrix& matrix) {
    return matrix.num_rows == update.num_rows && matrix.dim == dim;
  };
  require(fits(update.rows) && (documents == 0 || fits(update.document_rows)),
          "rows as many as ids and as wide as the bank");
  require(num_instances < int64_t{1} << 31 && update.num_rows < int64_t{1} << 31, "fewer than 2**31 rows");
  const py::gil_scoped_release no_gil;
  cuda::launch_bank_update(bank, update, pointer<uint64_t>(error_log), pointer<void>(scratch), pointer<void>(stream));
}

}  // namespace

void register_cuda_bank(py::module_& module) {
  module.attr("bank_scratch_bytes") = cuda::bank_scratch_bytes();
  module.attr("num_bank_error_log_words") = cuda::kNumErrorLogWords;
  module.def(
      "update_bank", &cuda_update_bank, py::kw_only(), py::arg("data"), py::arg("documents"), py::arg("dtype"),
      py::arg("num_instances"), py::arg("dim"), py::arg("last_update"), py::arg("claims"), py::arg("ids"),
      py::arg("rows"), py::arg("document_rows"), py::arg("step"), py::arg("update_number"), py::arg("momentum"),
      py::arg("normalize"), py::arg("skips"), py::arg("error_log"), py::arg("scratch"), py::arg("stream"),
      "Queues an update.   data, documents: dtype [num_instances, dim]; last_update, claims: int64 [num_instances];\n"
      "ids: int64 [B]; rows, document_rows: descriptions of matrices [B, dim], the latter or None;\n"
      "error_log: int64 [num_bank_error_log_words], the status words, the refused step, rows skipped");
}

}  // namespace bse

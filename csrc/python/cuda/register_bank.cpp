#include "cuda/bank/bank_update.h"
#include "python/cuda/bindings.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

void cuda_update_bank(const py::object& tables, uintptr_t claims, uintptr_t ids, const py::object& rows, int64_t step,
                      uint32_t update_number, float momentum, bool normalize, bool skips, uintptr_t error_log,
                      uintptr_t scratch, uintptr_t stream) {
  cuda::BankTables bank;
  read_tables(tables, bank);
  bank.claims = pointer<uint64_t>(claims);
  cuda::BankUpdate update;
  update.ids = pointer<const int64_t>(ids);
  read(rows, "embeddings", static_cast<MatrixLayout&>(update.rows));
  const bool has_documents = read_optional(rows, "documents", update.document_rows, update.rows);
  require((bank.documents != nullptr) == has_documents, "documents exactly where the bank has them");
  update.num_rows = update.rows.num_rows;
  update.step = step;
  update.update_number = update_number;
  update.momentum = momentum;
  update.normalize = normalize;
  update.skips = skips;
  const auto fits = [&](const cuda::DeviceMatrix& matrix) {
    return matrix.num_rows == update.num_rows && matrix.dim == bank.dim;
  };
  require(fits(update.rows) && fits(update.document_rows), "rows as many as ids and as wide as the bank");
  require(bank.num_instances < int64_t{1} << 31 && update.num_rows < int64_t{1} << 31, "fewer than 2**31 rows");
  const py::gil_scoped_release no_gil;
  cuda::launch_bank_update(bank, update, pointer<uint64_t>(error_log), pointer<void>(scratch), pointer<void>(stream));
}

}  // namespace

void register_cuda_bank(py::module_& module) {
  module.attr("bank_scratch_bytes") = cuda::bank_scratch_bytes();
  module.attr("num_bank_error_log_words") = cuda::kNumErrorLogWords;
  module.def(
      "update_bank", &cuda_update_bank, py::arg("tables"), py::kw_only(), py::arg("claims"), py::arg("ids"),
      py::arg("rows"), py::arg("step"), py::arg("update_number"), py::arg("momentum"), py::arg("normalize"),
      py::arg("skips"), py::arg("error_log"), py::arg("scratch"), py::arg("stream"),
      "Queues an update.   claims: int64 [num_instances]; ids: int64 [B]; rows: embeddings and documents, [B, dim];\n"
      "error_log: int64 [num_bank_error_log_words], the status words, the refused step, rows skipped");
}

}  // namespace bse

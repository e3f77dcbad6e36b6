#include "cpu/bank/bank_update.h"
#include "python/bindings.h"
#include "python/requests.h"

namespace py = pybind11;

namespace bse {

namespace {

BankTables read_cpu_tables(const py::object& tables) {
  const Fields fields(tables);
  BankTables bank{};
  read_tables(fields, bank);
  fields("checksums", bank.checksums);
  return bank;
}

}  // namespace

void register_bank(py::module_& module) {
  module.def(
      "update_bank",
      [](const py::object& tables, uintptr_t ids, uintptr_t rows, uintptr_t document_rows, int64_t num_rows,
         int64_t step, float momentum, bool normalize) {
        const BankTables bank = read_cpu_tables(tables);
        require((bank.documents == nullptr) == (document_rows == 0), "documents exactly where the bank has them");
        const BankUpdate update{pointer<const int64_t>(ids),
                                pointer<const float>(rows),
                                pointer<const float>(document_rows),
                                num_rows,
                                step,
                                momentum,
                                normalize};
        UpdateResult result;
        {
          const py::gil_scoped_release no_gil;
          result = update_bank(bank, update);
        }
        return py::make_tuple(static_cast<int>(result.error), result.position);
      },
      py::arg("tables"), py::kw_only(), py::arg("ids"), py::arg("rows"), py::arg("document_rows"), py::arg("num_rows"),
      py::arg("step"), py::arg("momentum"), py::arg("normalize"),
      "(error, position): 0 stored; 1 an id out of range, 2 a row, 3 a document row that cannot be stored.\n"
      "ids: int64 [num_rows]   rows, document_rows: float32 [num_rows, dim]");
  module.def(
      "bank_row_checksums",
      [](const py::object& tables, uintptr_t out) {
        const BankTables bank = read_cpu_tables(tables);
        const py::gil_scoped_release no_gil;
        row_checksums(bank, pointer<int64_t>(out));
      },
      py::arg("tables"), py::kw_only(), py::arg("out"),
      "Computes the checksums that the rows should have.   out: int64 [num_instances]");
}

}  // namespace bse

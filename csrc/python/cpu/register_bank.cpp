#include "cpu/bank/bank_update.h"
#include "python/cpu/bindings.h"

namespace py = pybind11;

namespace bse {

void register_bank(py::module_& module) {
  module.def(
      "update_bank",
      [](uintptr_t data, uintptr_t documents, int dtype, int64_t num_instances, int64_t dim, uintptr_t last_update,
         uintptr_t ids, uintptr_t rows, uintptr_t document_rows, int64_t num_rows, int64_t step, float momentum,
         bool normalize) {
        require((documents == 0) == (document_rows == 0), "documents exactly where the bank has them");
        const BankTables bank{
            pointer<void>(data),          pointer<void>(documents), dtype_of_code(dtype), num_instances, dim,
            pointer<int64_t>(last_update)};
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
      py::kw_only(), py::arg("data"), py::arg("documents"), py::arg("dtype"), py::arg("num_instances"), py::arg("dim"),
      py::arg("last_update"), py::arg("ids"), py::arg("rows"), py::arg("document_rows"), py::arg("num_rows"),
      py::arg("step"), py::arg("momentum"), py::arg("normalize"),
      "(error, position): 0 stored; 1 an id out of range, 2 a row, 3 a key row that cannot be stored.\n"
      "data, documents: dtype [num_instances, dim]   last_update: int64 [num_instances]\n"
      "ids: int64 [num_rows]   rows, document_rows: float32 [num_rows, dim]");
}

}  // namespace bse

#include "cpu/bank/bank_update.h"
#include "python/cpu/bindings.h"

namespace py = pybind11;

namespace bse {

void register_bank(py::module_& module) {
  module.def(
      "update_bank",
      [](uintptr_t data, uintptr_t keys, int dtype, int64_t num_samples, int64_t dim, uintptr_t last_update,
         uintptr_t ids, uintptr_t rows, uintptr_t key_rows, int64_t num_rows, int64_t step, float momentum,
         bool normalize) {
        require((keys == 0) == (key_rows == 0), "keys exactly where the bank has them");
        const BankTables bank{pointer<void>(data),          pointer<void>(keys), dtype_of_code(dtype), num_samples, dim,
                              pointer<int64_t>(last_update)};
        const BankUpdate update{pointer<const int64_t>(ids),
                                pointer<const float>(rows),
                                pointer<const float>(key_rows),
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
      py::kw_only(), py::arg("data"), py::arg("keys"), py::arg("dtype"), py::arg("num_samples"), py::arg("dim"),
      py::arg("last_update"), py::arg("ids"), py::arg("rows"), py::arg("key_rows"), py::arg("num_rows"),
      py::arg("step"), py::arg("momentum"), py::arg("normalize"),
      "(error, position): 0 stored; 1 an id out of range, 2 a row, 3 a key row that cannot be stored.\n"
      "data, keys: dtype [num_samples, dim]   last_update: int64 [num_samples]\n"
      "ids: int64 [num_rows]   rows, key_rows: float32 [num_rows, dim]");
}

}  // namespace bse

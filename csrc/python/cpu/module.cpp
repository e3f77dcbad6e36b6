// batchsampler_ext._core: the CPU engine. Always built; needs neither torch nor CUDA.

#include <pybind11/stl.h>

#include "cpu/simd/dispatch.h"
#include "python/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "CPU engine of batchsampler_ext. Private: pointers are passed as integers and not checked.";
  module.def("isa", [] { return bse::kernel_table().isa_name; }, "Instruction set in use.");
  module.def("use_isa", &bse::use_isa, "Switches the instruction set: for tests and benchmarks.");
  module.def("supported_isas", &bse::supported_isas, "Instruction sets this CPU can run, slowest first.");
  bse::register_bank(module);
  bse::register_random(module);
  bse::register_graph(module);
  bse::register_walk(module);
}

// The CUDA engine as a Python module: _cuda. Compiled against the emulator of tests/emulator it is _cuda_emulated,
// which runs the same kernels on tensors in host memory, for tests.
//
// Private: pointers are passed as integers; batchsampler_ext/_engine/cuda.py allocates what they point to.

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cuda/runtime/current_device.h"
#include "cuda/runtime/status.h"
#include "python/bindings.h"
#include "python/pointers.h"

namespace py = pybind11;

PYBIND11_MODULE(BSE_MODULE_NAME, module) {
  module.doc() = "CUDA engine of batchsampler_ext. Private: pointers are passed as integers and not checked.";
  module.attr("architectures") = BSE_CUDA_ARCHITECTURES;  // as cmake/cuda_engine.cmake was asked to build them
  module.attr("num_status_words") = bse::cuda::kNumStatusWords;
  module.def(
      "status_message",
      [](const std::vector<int64_t>& words, int64_t num_instances, const std::string& features,
         const std::string& documents) {
        bse::require(words.size() == bse::cuda::kNumStatusWords, "as many status words as there are kinds");
        return bse::cuda::status_message(reinterpret_cast<const uint64_t*>(words.data()), num_instances,
                                         {features.c_str(), documents.c_str()});
      },
      py::arg("words"), py::kw_only(), py::arg("num_instances") = 0, py::arg("features") = "features",
      py::arg("documents") = "documents", "What kernels found wrong, or nothing.");
  module.def("use_device", &bse::cuda::use_device, py::arg("index"), "For the calls of this thread that follow.");
  bse::register_cuda_bank(module);
  bse::register_cuda_graph(module);
  bse::register_cuda_partition(module);
  bse::register_cuda_walk(module);
}

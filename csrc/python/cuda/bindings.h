// The parts of the module _cuda, a file each.
#pragma once

#include <pybind11/pybind11.h>

namespace bse {

void register_cuda_bank(pybind11::module_& module);
void register_cuda_graph(pybind11::module_& module);
void register_cuda_partition(pybind11::module_& module);
void register_cuda_walk(pybind11::module_& module);

}  // namespace bse

// The parts of the modules _core and _cuda, a file each.
#pragma once

#include <pybind11/pybind11.h>

namespace bse {

void register_bank(pybind11::module_& module);
void register_random(pybind11::module_& module);
void register_graph(pybind11::module_& module);
void register_walk(pybind11::module_& module);

void register_cuda_bank(pybind11::module_& module);
void register_cuda_graph(pybind11::module_& module);
void register_cuda_partition(pybind11::module_& module);
void register_cuda_walk(pybind11::module_& module);

}  // namespace bse

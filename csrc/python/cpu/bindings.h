// The parts of the module _core, a file each.
#pragma once

#include "cpu/types/graph_view.h"
#include "cpu/types/matrix_view.h"
#include "python/pointers.h"

namespace bse {

void register_bank(pybind11::module_& module);
void register_random(pybind11::module_& module);
void register_graph(pybind11::module_& module);
void register_walk(pybind11::module_& module);

}  // namespace bse

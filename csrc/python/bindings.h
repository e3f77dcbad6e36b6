// The parts of the module _core, a file each.
#pragma once

#include "../cpu/graph_view.h"
#include "../cpu/matrix_view.h"
#include "pointers.h"

namespace bse {

void register_bank(pybind11::module_& module);
void register_random(pybind11::module_& module);
void register_graph(pybind11::module_& module);
void register_walk(pybind11::module_& module);

}  // namespace bse

// Choice of the kernels of this process, at the first use: the best that the CPU supports, or those that BSE_ISA names.
#pragma once

#include <string>
#include <vector>

#include "cpu/simd/kernel_table.h"

namespace bse {

// Returns the kernels in use. Throws std::invalid_argument if BSE_ISA names an unknown instruction set or one that this
// CPU lacks.
const KernelTable& kernel_table();

// Switches to another instruction set, for tests and benchmarks. Must not be called while a kernel runs. Throws as
// kernel_table() does.
void use_isa(const std::string& name);

// Returns the names of the instruction sets that are compiled in and supported by this CPU, slowest first.
std::vector<std::string> supported_isas();

}  // namespace bse

// Which kernels this process uses: the best the CPU has, or what BSE_ISA says. Decided at the first use.
#pragma once

#include <string>
#include <vector>

#include "cpu/simd/kernel_table.h"

namespace bse {

// Throws std::invalid_argument if BSE_ISA names an unknown instruction set or one this CPU lacks.
const KernelTable& kernel_table();

// Switches to another instruction set, for tests and benchmarks. Not to be called while a kernel runs.
void use_isa(const std::string& name);

// Names of the instruction sets that were compiled in and that this CPU can run, slowest first.
std::vector<std::string> supported_isas();

}  // namespace bse

// Which kernels this process uses: the best the CPU has, or what BSE_ISA says. Decided once.
#pragma once

#include <string>
#include <vector>

#include "similarity_kernels.h"

namespace bse {

// Throws std::invalid_argument if BSE_ISA names an unknown instruction set or one this CPU lacks.
const SimilarityKernels& similarity_kernels();

// Names of the instruction sets that were compiled in and that this CPU can run, slowest first.
std::vector<std::string> supported_isas();

}  // namespace bse

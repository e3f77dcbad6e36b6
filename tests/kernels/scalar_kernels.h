// Gives tests that compare with the CPU engine its scalar kernels, on any machine. One file of a program includes it.
#pragma once

#include "cpu/simd/dispatch.h"
#include "cpu/simd/kernel_table.h"

namespace bse {

const KernelTable& kernel_table() { return kScalarKernels; }

}  // namespace bse

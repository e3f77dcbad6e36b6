// The CPU engine's kernels for tests that compare with it: the scalar ones, on any machine. Included by one file of a
// program.
#pragma once

#include "cpu/simd/dispatch.h"
#include "cpu/simd/kernel_table.h"

namespace bse {

const KernelTable& kernel_table() { return kScalarKernels; }

}  // namespace bse

// AVX-512: compiled with -mavx512{f,bw,dq,vl}; reached only through the table after the CPU has been asked
// (dispatch.cpp).

#include "cpu/simd/avx512_kernels.h"

namespace bse {

const KernelTable kAvx512Kernels = avx512_kernels("avx512", nullptr, nullptr);

}  // namespace bse

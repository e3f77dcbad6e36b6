// AVX-512. Compiled with -mavx512{f,bw,dq,vl}; dispatch.cpp asks the CPU before it uses the table.

#include "cpu/simd/avx512_kernels.h"

namespace bse {

constexpr KernelTable kAvx512Kernels =
    kernel_table_of<Avx512, Counting, void, void, Avx512Bytes>("avx512", pack_panel, philox_blocks, find_places);

}  // namespace bse

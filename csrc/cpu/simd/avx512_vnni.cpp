// AVX-512 with VNNI but without BF16: as AVX-512, with int16 pairs multiplied by vpdpwssd.
// Compiled with -mavx512vnni beside its flags.

#include "cpu/simd/avx512_int16.h"
#include "cpu/simd/avx512_kernels.h"

namespace bse {

constexpr KernelTable kAvx512VnniKernels = kernel_table_of<Avx512, Counting, void, Avx512Int16, Avx512Bytes>(
    "avx512_vnni", pack_panel, philox_blocks, find_places);

}  // namespace bse

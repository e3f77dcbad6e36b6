// AVX-512 with BF16: as AVX-512, with bfloat16 pairs multiplied by vdpbf16ps, and int16 pairs by vpdpwssd of VNNI,
// which all processors with BF16 have. Compiled with -mavx512bf16 and -mavx512vnni beside its flags.

#include "cpu/simd/avx512_int16.h"
#include "cpu/simd/avx512_kernels.h"

namespace bse {
namespace {

struct Avx512Pairs : Avx512 {
  static Vector broadcast_element(const float* pair) {
    int32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
  }
  static Vector add(Vector sums, Vector pair, Vector candidates) {
    return _mm512_dpbf16_ps(sums, (__m512bh)pair, (__m512bh)candidates);
  }

  using Element = uint16_t;
  static constexpr int kElements = 32;
  static Vector load_elements(const uint16_t* elements) { return _mm512_castsi512_ps(_mm512_loadu_si512(elements)); }
  static Vector load_elements(const uint16_t* elements, int64_t left) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << left) - 1), elements));
  }
  static Vector add_elements(Vector sums, Vector a, Vector b) { return add(sums, a, b); }
};

}  // namespace

constexpr KernelTable kAvx512Bf16Kernels = kernel_table_of<Avx512, Counting, Avx512Pairs, Avx512Int16, Avx512Bytes>(
    "avx512_bf16", pack_panel, philox_blocks, find_places);

}  // namespace bse

// AVX-512 with BF16: as AVX-512, and bfloat16 pairs by vdpbf16ps. Compiled with -mavx512bf16 beside its flags.

#include "cpu/simd/avx512_kernels.h"

namespace bse {
namespace {

struct DotProduct {
  static __m512 broadcast(const float* pair) {
    int32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
  }
  static __m512 add(__m512 sums, __m512 pair, __m512 candidates) {
    return _mm512_dpbf16_ps(sums, (__m512bh)pair, (__m512bh)candidates);
  }
};

struct Bfloat16Elements {
  using Element = uint16_t;
  static constexpr int64_t kPerVector = 32;
  static __m512 load(const uint16_t* elements) { return _mm512_castsi512_ps(_mm512_loadu_si512(elements)); }
  static __m512 load(const uint16_t* elements, int64_t count) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), elements));
  }
  static __m512 add(__m512 sums, __m512 a, __m512 b) { return DotProduct::add(sums, a, b); }
};

}  // namespace

const KernelTable kAvx512Bf16Kernels =
    avx512_kernels("avx512_bf16", accumulate<DotProduct>, gather_dots<Bfloat16Elements>);

}  // namespace bse

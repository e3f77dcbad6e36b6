// AVX-512 with BF16: as AVX-512, with bfloat16 pairs multiplied by vdpbf16ps, and int16 pairs by vpdpwssd of VNNI,
// which all processors with BF16 have. Compiled with -mavx512bf16 and -mavx512vnni beside its flags.

#include "common/prefilter_bound.h"
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

struct Avx512Int16 {
  static constexpr int kLanes = Avx512::kLanes, kPanelWidth = Avx512::kPanelWidth, kRowTile = Avx512::kRowTile;
  typedef int32_t Vector __attribute__((vector_size(64)));  // gcc 12 spills accumulators of type __m512i

  static Vector zero() { return Vector{}; }
  static Vector broadcast_element(const float* pair) {
    int32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return (Vector)_mm512_set1_epi32(bits);
  }
  static Vector load(const float* pairs) { return (Vector)_mm512_loadu_si512(pairs); }
  static Vector add(Vector sums, Vector pair, Vector candidates) {
    return (Vector)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)pair, (__m512i)candidates);
  }
  static Vector load_sums(const float* sums) {
    return (Vector)_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(kFixedPointUnit)));
  }
  static void store_sums(float* target, Vector sums) {
    _mm512_storeu_ps(target, _mm512_mul_ps(_mm512_cvtepi32_ps((__m512i)sums), _mm512_set1_ps(1.0f / kFixedPointUnit)));
  }
};

}  // namespace

constexpr KernelTable kAvx512Bf16Kernels =
    kernel_table_of<Avx512, Counting, Avx512Pairs, Avx512Int16>("avx512_bf16", pack_panel, philox_blocks, find_places);

}  // namespace bse

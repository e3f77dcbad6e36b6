// AVX-512 kernels: register tiles of 8 rows x 48 candidates, one lane a pair.
//
// Included by the files of the instruction sets that have AVX-512, compiled anew in each: everything is in an anonymous
// namespace, and no weak symbol leaves these files (see avx2.cpp).
#pragma once

#include "cpu/simd/algorithms.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/x86_packing.h"

namespace bse {
namespace {

inline __mmask16 lanes_inside(int64_t left) { return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1); }

// Sums of the lanes of 16 vectors.
inline __m512 reduce_16(const __m512* sums) {
  __m512 pairs[8], quads[4], halves[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(sums[2 * i], sums[2 * i + 1]),
                             _mm512_unpackhi_ps(sums[2 * i], sums[2 * i + 1]));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d low = _mm512_castps_pd(pairs[2 * i]), high = _mm512_castps_pd(pairs[2 * i + 1]);
    quads[i] =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xDD));
  }
  return _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                       _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
}

struct Avx512 {
  static constexpr int kLanes = 16, kPanelWidth = 48, kRowTile = 8;
  using Vector = __m512;
  using Words = __m512i;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector broadcast(float value) { return _mm512_set1_ps(value); }
  static Vector broadcast_element(const float* element) { return _mm512_set1_ps(*element); }
  static Vector load(const float* values) { return _mm512_loadu_ps(values); }
  static Vector load(const float* values, int64_t left) {
    return _mm512_mask_loadu_ps(broadcast(__builtin_nanf("")), lanes_inside(left), values);
  }
  static void store(float* values, Vector lanes) { _mm512_storeu_ps(values, lanes); }
  static Vector add(Vector sums, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sums); }

  static Words load_words(const uint32_t* words) { return _mm512_loadu_si512(words); }
  static Words words_from(uint32_t first) {
    return _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                            _mm512_set1_epi32(static_cast<int>(first)));
  }
  static Words next(Words words) { return _mm512_add_epi32(words, _mm512_set1_epi32(16)); }

  static unsigned mask_above(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static unsigned mask_at_least(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static unsigned mask_equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }

  static int64_t store_front(uint32_t* target, Words lanes, unsigned mask) {
    _mm512_storeu_si512(target, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), lanes));
    return __builtin_popcount(mask);
  }
  static int64_t store_front(float* target, Vector lanes, unsigned mask) {
    _mm512_storeu_ps(target, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), lanes));
    return __builtin_popcount(mask);
  }

  // Philox: a counter word in the low half of each 64-bit lane. The high halves are never read.
  struct Product {
    Words high, low;
  };
  static Words broadcast_word(uint32_t value) { return _mm512_set1_epi64(value); }
  static Product multiply(Words words, uint32_t factor) {
    const Words product = _mm512_mul_epu32(words, broadcast_word(factor));
    return {_mm512_srli_epi64(product, 32), product};
  }
  static Words exclusive_or(Words a, Words b, uint32_t key) {
    return _mm512_xor_si512(a, _mm512_xor_si512(b, broadcast_word(key)));
  }

  using Element = float;
  static constexpr int kElements = 16, kGatheredRows = 16;
  static Vector load_elements(const float* elements) { return load(elements); }
  static Vector load_elements(const float* elements, int64_t left) {
    return _mm512_maskz_loadu_ps(lanes_inside(left), elements);
  }
  static Vector add_elements(Vector sums, Vector a, Vector b) { return add(sums, a, b); }
  static void write_sums(const Vector* sums, int64_t num_rows, float* out) {
    _mm512_mask_storeu_ps(out, lanes_inside(num_rows), reduce_16(sums));
  }
};

struct Avx512Bytes {
  static constexpr int64_t kBytes = 64;
  using Vector = __m512i;

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const void* bytes) { return _mm512_loadu_si512(bytes); }
  static Vector add_products(Vector sums, Vector low, Vector high, Vector bytes) {
    const Vector even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xFF)), odd = _mm512_srli_epi16(bytes, 8);
    return _mm512_add_epi32(sums, _mm512_add_epi32(_mm512_madd_epi16(low, even), _mm512_madd_epi16(high, odd)));
  }
  static void write_sums(const Vector* sums, int32_t offset, float scale, float* out) {
    const Vector pair0 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[0], sums[1]), _mm512_unpackhi_epi32(sums[0], sums[1]));
    const Vector pair1 =
        _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2], sums[3]), _mm512_unpackhi_epi32(sums[2], sums[3]));
    const Vector quad = _mm512_add_epi32(_mm512_unpacklo_epi64(pair0, pair1), _mm512_unpackhi_epi64(pair0, pair1));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(quad), _mm512_extracti64x4_epi64(quad, 1));
    const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128 dots = _mm_cvtepi32_ps(_mm_sub_epi32(total, _mm_set1_epi32(offset)));
    _mm_storeu_ps(out, _mm_mul_ps(dots, _mm_set1_ps(scale)));
  }
};

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, Avx512::kPanelWidth, panel);
}

// The functions that algorithms.h calls Counting.
struct Counting {
  static RowStatistics statistics(const float* scores, int64_t count) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    RowStatistics row;
    for (int64_t c = 0; c < count; c += 16) {
      const __mmask16 inside = lanes_inside(count - c);
      const __m512 lanes = _mm512_maskz_loadu_ps(inside, scores + c);
      const __mmask16 known = _mm512_mask_cmp_ps_mask(inside, lanes, lanes, _CMP_ORD_Q);
      sum = _mm512_mask_add_ps(sum, known, sum, lanes);
      squares = _mm512_mask3_fmadd_ps(lanes, lanes, squares, known);
      row.count += __builtin_popcount(known);
    }
    row.sum = _mm512_reduce_add_ps(sum);
    row.sum_of_squares = _mm512_reduce_add_ps(squares);
    return row;
  }

  static void extremes(const float* scores, int64_t count, float* lowest, float* highest) {
    __m512 low = _mm512_set1_ps(scores[0]), high = low;
    for (int64_t c = 0; c < count; c += 16) {
      const __mmask16 inside = lanes_inside(count - c);
      const __m512 lanes = _mm512_maskz_loadu_ps(inside, scores + c);
      low = _mm512_mask_min_ps(low, inside, low, lanes);
      high = _mm512_mask_max_ps(high, inside, high, lanes);
    }
    *lowest = _mm512_reduce_min_ps(low);
    *highest = _mm512_reduce_max_ps(high);
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const __m512 limit = _mm512_set1_ps(threshold);
    const __m512i one = _mm512_set1_epi32(1);
    __m512i above = _mm512_setzero_si512();
    int64_t c = 0;
    for (; c + 16 <= count; c += 16) {
      const __mmask16 wanted = _mm512_cmp_ps_mask(_mm512_loadu_ps(scores + c), limit, _CMP_GT_OQ);
      above = _mm512_mask_add_epi32(above, wanted, above, one);
    }
    const __mmask16 inside = lanes_inside(count - c);
    const __m512 lanes = _mm512_maskz_loadu_ps(inside, scores + c);
    above = _mm512_mask_add_epi32(above, _mm512_mask_cmp_ps_mask(inside, lanes, limit, _CMP_GT_OQ), above, one);
    return _mm512_reduce_add_epi32(above);
  }
};

void find_places(const uint64_t* ranks, int64_t count, uint32_t* places) {
  const __m512i one = _mm512_set1_epi64(1);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 inside = lanes_inside(count - i);
    const __m512i low = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(inside), ranks + i);
    const __m512i high = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(inside >> 8), ranks + i + 8);
    __m512i below_low = _mm512_setzero_si512(), below_high = below_low;
    for (int64_t j = 0; j < count; ++j) {
      const __m512i other = _mm512_set1_epi64(static_cast<int64_t>(ranks[j]));
      below_low = _mm512_mask_add_epi64(below_low, _mm512_cmplt_epu64_mask(other, low), below_low, one);
      below_high = _mm512_mask_add_epi64(below_high, _mm512_cmplt_epu64_mask(other, high), below_high, one);
    }
    const __m512i below = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(below_low)),
                                             _mm512_cvtepi64_epi32(below_high), 1);
    _mm512_mask_storeu_epi32(places + i, inside, below);
  }
}

// Eight blocks at a time.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  const auto broadcast = Avx512::broadcast_word;
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);  // undone by unpacking
  for (int b = 0; b < num_blocks; b += 8) {
    const __m512i offset = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(offsets + b));
    __m512i w[4] = {broadcast(c0), broadcast(c1), _mm512_add_epi32(broadcast(c2), offset),
                    _mm512_add_epi32(broadcast(c3), _mm512_srli_epi64(offset, 32))};
    philox_rounds<Avx512>(key, w);
    const __m512i first = _mm512_mask_blend_epi32(0xAAAA, w[0], _mm512_slli_epi64(w[1], 32));
    const __m512i second = _mm512_mask_blend_epi32(0xAAAA, w[2], _mm512_slli_epi64(w[3], 32));
    _mm512_storeu_si512(words + 4 * b, _mm512_unpacklo_epi64(first, second));
    _mm512_storeu_si512(words + 4 * b + 16, _mm512_unpackhi_epi64(first, second));
  }
}

}  // namespace
}  // namespace bse

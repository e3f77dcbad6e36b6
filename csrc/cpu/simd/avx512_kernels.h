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

constexpr int kPanelWidth = 48;
constexpr int kVectors = kPanelWidth / 16;
constexpr int kRowTile = 8;

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, kPanelWidth, panel);
}

// What a tile adds for one element of a row and 16 candidates.
struct MultiplyAdd {
  static __m512 broadcast(const float* element) { return _mm512_set1_ps(*element); }
  static __m512 add(__m512 sums, __m512 element, __m512 candidates) {
    return _mm512_fmadd_ps(element, candidates, sums);
  }
};

template <class Product, int kRows>
inline void accumulate_tile(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                            int64_t acc_stride) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = resume ? _mm512_load_ps(acc + i * acc_stride + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    __m512 candidates[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) candidates[v] = _mm512_load_ps(panel + k * kPanelWidth + 16 * v);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m512 element = Product::broadcast(rows[i] + k);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Product::add(sums[i][v], element, candidates[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) _mm512_store_ps(acc + i * acc_stride + 16 * v, sums[i][v]);
  }
}

template <class Product>
void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  static constexpr Tile kTiles[kRowTile] = {accumulate_tile<Product, 1>, accumulate_tile<Product, 2>,
                                            accumulate_tile<Product, 3>, accumulate_tile<Product, 4>,
                                            accumulate_tile<Product, 5>, accumulate_tile<Product, 6>,
                                            accumulate_tile<Product, 7>, accumulate_tile<Product, 8>};
  accumulate_by_tiles(kTiles, kRowTile, kPanelWidth, rows, num_rows, panels, num_panels, depth, resume, acc,
                      acc_stride);
}

inline __mmask16 lanes_inside(int64_t left) { return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1); }

// What the searches of algorithms.h ask.
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

// Whole vectors are stored: the caller leaves room for 16 beyond what is wanted.
inline void append(__mmask16 wanted, __m512 scores, __m512i tiebreaks, float* kept_scores, uint32_t* kept_tiebreaks,
                   int64_t* num_kept) {
  _mm512_storeu_ps(kept_scores + *num_kept, _mm512_maskz_compress_ps(wanted, scores));
  _mm512_storeu_si512(kept_tiebreaks + *num_kept, _mm512_maskz_compress_epi32(wanted, tiebreaks));
  *num_kept += __builtin_popcount(wanted);
}

// Tiebreaks are compressed and scores fetched afterwards: one unaligned store a vector instead of two.
int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity) {
  const __m512 limit = _mm512_set1_ps(threshold);
  const __m512i step = _mm512_set1_epi32(16);
  __m512i tiebreaks = _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                       _mm512_set1_epi32(static_cast<int>(first_tiebreak)));
  int64_t c = 0, used = *num_kept;
  const auto append = [&](__m512 lanes, __mmask16 inside) {
    const __mmask16 wanted = bounded ? _mm512_mask_cmp_ps_mask(inside, lanes, limit, _CMP_GT_OQ)
                                     : _mm512_mask_cmp_ps_mask(inside, lanes, lanes, _CMP_ORD_Q);
    _mm512_storeu_si512(kept_tiebreaks + used, _mm512_maskz_compress_epi32(wanted, tiebreaks));
    used += __builtin_popcount(wanted);
    tiebreaks = _mm512_add_epi32(tiebreaks, step);
  };
  for (; c + 16 <= count && used + kPanelWidth <= capacity; c += 16) append(_mm512_loadu_ps(scores + c), 0xFFFF);
  if (c < count && c + 16 > count && used + kPanelWidth <= capacity) {
    const __mmask16 inside = lanes_inside(count - c);
    append(_mm512_maskz_loadu_ps(inside, scores + c), inside);
    c = count;
  }
  for (int64_t n = *num_kept; n < used; ++n) kept_scores[n] = scores[kept_tiebreaks[n] - first_tiebreak];
  *num_kept = used;
  return c;
}

int64_t find_entries(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits) {
  __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int64_t num_hits = 0;
  for (int64_t c = 0; c < count; c += 16) {
    const __mmask16 inside = lanes_inside(count - c);
    const __mmask16 entering = _mm512_mask_cmp_ps_mask(inside, _mm512_maskz_loadu_ps(inside, scores + c),
                                                       _mm512_maskz_loadu_ps(inside, entry_scores + c), _CMP_GE_OQ);
    _mm512_storeu_si512(hits + num_hits, _mm512_maskz_compress_epi32(entering, places));
    num_hits += __builtin_popcount(entering);
    places = _mm512_add_epi32(places, _mm512_set1_epi32(16));
  }
  return num_hits;
}

int64_t filter(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best) {
  const __m512 limit = _mm512_set1_ps(cut.score);
  int64_t num_kept = 0, num_equal = 0;
  for (int64_t c = 0; c < count; c += 16) {
    const __mmask16 inside = lanes_inside(count - c);
    const __m512 lanes = _mm512_loadu_ps(scores + c);
    const __m512i ties = _mm512_loadu_si512(tiebreaks + c);
    const __mmask16 equal = _mm512_mask_cmp_ps_mask(inside, lanes, limit, _CMP_EQ_OQ);
    __mmask16 best = _mm512_mask_cmp_ps_mask(inside, lanes, limit, _CMP_GT_OQ);
    if (equal != 0) best |= static_cast<__mmask16>(first_set_bits(equal, cut.num_equal - num_equal));
    num_equal += __builtin_popcount(equal);
    append(keep_best ? best : static_cast<__mmask16>(inside & ~best), lanes, ties, scores, tiebreaks, &num_kept);
  }
  return num_kept;
}

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

// Eight blocks at a time, a counter word in the low half of each 64-bit lane; what is in the high halves is never read.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  const auto broadcast = [](uint32_t value) { return _mm512_set1_epi64(value); };
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);  // which unpacking undoes
  for (int b = 0; b < num_blocks; b += 8) {
    const __m512i offset = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(offsets + b));
    __m512i w0 = broadcast(c0), w1 = broadcast(c1);
    __m512i w2 = _mm512_add_epi32(broadcast(c2), offset);
    __m512i w3 = _mm512_add_epi32(broadcast(c3), _mm512_srli_epi64(offset, 32));
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m512i product0 = _mm512_mul_epu32(w0, broadcast(kPhiloxFactor0));
      const __m512i product1 = _mm512_mul_epu32(w2, broadcast(kPhiloxFactor1));
      w0 = _mm512_xor_si512(_mm512_srli_epi64(product1, 32), _mm512_xor_si512(w1, broadcast(k0)));
      w1 = product1;
      w2 = _mm512_xor_si512(_mm512_srli_epi64(product0, 32), _mm512_xor_si512(w3, broadcast(k1)));
      w3 = product0;
      k0 += kPhiloxKeyStep0;
      k1 += kPhiloxKeyStep1;
    }
    const __m512i first = _mm512_mask_blend_epi32(0xAAAA, w0, _mm512_slli_epi64(w1, 32));
    const __m512i second = _mm512_mask_blend_epi32(0xAAAA, w2, _mm512_slli_epi64(w3, 32));
    _mm512_storeu_si512(words + 4 * b, _mm512_unpacklo_epi64(first, second));
    _mm512_storeu_si512(words + 4 * b + 16, _mm512_unpackhi_epi64(first, second));
  }
}

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

// How the elements of a row are read and multiplied.
struct FloatElements {
  using Element = float;
  static constexpr int64_t kPerVector = 16;
  static __m512 load(const float* elements) { return _mm512_loadu_ps(elements); }
  static __m512 load(const float* elements, int64_t count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), elements);
  }
  static __m512 add(__m512 sums, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sums); }
};

// 16 rows at a time, the lanes along the row; the next 16 rows are on their way meanwhile.
template <class Elements, class Element = typename Elements::Element>
void gather_dots(const Element* row, const Element* base, int64_t row_stride, int64_t dim, const int64_t* ids,
                 int64_t count, float* out) {
  constexpr int64_t kElementsPerLine = 64 / sizeof(Element), kMaxLines = 32;
  const int64_t fetched = dim < kMaxLines * kElementsPerLine ? dim : kMaxLines * kElementsPerLine;
  const int64_t whole = dim / Elements::kPerVector * Elements::kPerVector;
  const auto row_of = [&](int64_t c) { return base + ids[c < count ? c : count - 1] * row_stride; };
  for (int64_t first = 0; first < count; first += 16) {
    const Element* rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      rows[i] = row_of(first + i);
      const Element* ahead = row_of(first + 16 + i);
      for (int64_t k = 0; k < fetched; k += kElementsPerLine) _mm_prefetch(ahead + k, _MM_HINT_T0);
    }
    __m512 sums[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < whole; k += Elements::kPerVector) {
      const __m512 own = Elements::load(row + k);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) sums[i] = Elements::add(sums[i], own, Elements::load(rows[i] + k));
    }
    if (whole < dim) {
      const __m512 own = Elements::load(row + whole, dim - whole);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        sums[i] = Elements::add(sums[i], own, Elements::load(rows[i] + whole, dim - whole));
      }
    }
    _mm512_mask_storeu_ps(out + first, lanes_inside(count - first), reduce_16(sums));
  }
}

constexpr KernelTable avx512_kernels(const char* isa_name, decltype(KernelTable::accumulate_pairs) accumulate_pairs,
                                     decltype(KernelTable::gather_bfloat16_dots) gather_bfloat16_dots) {
  return {isa_name,
          kPanelWidth,
          pack_panel,
          accumulate<MultiplyAdd>,
          accumulate_pairs,
          squared_norms<kPanelWidth>,
          finish_score_row,
          guess_from_counts<Counting>,
          collect,
          find_entries,
          find_cut_by_counts<Counting>,
          filter,
          philox_blocks,
          gather_dots<FloatElements>,
          gather_bfloat16_dots,
          find_places};
}

}  // namespace
}  // namespace bse

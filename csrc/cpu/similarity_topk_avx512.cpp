// AVX-512 kernels: register tiles of 8 rows x 48 candidates, one lane a pair.
//
// Compiled with -mavx512{f,bw,dq,vl}; reached only through the table after the CPU has been asked (isa.cpp). No weak
// symbol leaves this file (see similarity_topk_avx2.cpp).

#include "simd_shared.h"
#include "similarity_kernels.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 48;
constexpr int kVectors = kPanelWidth / 16;
constexpr int kRowTile = 8;

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, kPanelWidth, panel);
}

template <int kRows>
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
      const __m512 element = _mm512_set1_ps(rows[i][k]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[i][v] = _mm512_fmadd_ps(element, candidates[v], sums[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) _mm512_store_ps(acc + i * acc_stride + 16 * v, sums[i][v]);
  }
}

void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  static constexpr Tile kTiles[kRowTile] = {accumulate_tile<1>, accumulate_tile<2>, accumulate_tile<3>,
                                            accumulate_tile<4>, accumulate_tile<5>, accumulate_tile<6>,
                                            accumulate_tile<7>, accumulate_tile<8>};
  accumulate_by_tiles(kTiles, kRowTile, kPanelWidth, rows, num_rows, panels, num_panels, depth, resume, acc,
                      acc_stride);
}

// What guess_from_counts asks.
struct Counting {
  static __mmask16 inside(int64_t left) { return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1); }

  static RowStatistics statistics(const float* scores, int64_t count) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    RowStatistics row;
    for (int64_t c = 0; c < count; c += 16) {
      const __m512 lanes = _mm512_maskz_loadu_ps(inside(count - c), scores + c);
      const __mmask16 known = _mm512_mask_cmp_ps_mask(inside(count - c), lanes, lanes, _CMP_ORD_Q);
      sum = _mm512_mask_add_ps(sum, known, sum, lanes);
      squares = _mm512_mask3_fmadd_ps(lanes, lanes, squares, known);
      row.count += __builtin_popcount(known);
    }
    row.sum = _mm512_reduce_add_ps(sum);
    row.sum_of_squares = _mm512_reduce_add_ps(squares);
    return row;
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const __m512 limit = _mm512_set1_ps(threshold);
    int64_t above = 0;
    for (int64_t c = 0; c < count; c += 16) {
      const __mmask16 valid = inside(count - c);
      const __m512 lanes = _mm512_maskz_loadu_ps(valid, scores + c);
      above += __builtin_popcount(_mm512_mask_cmp_ps_mask(valid, lanes, limit, _CMP_GT_OQ));
    }
    return above;
  }
};

int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                uint64_t* ranks, int64_t* num_ranks, int64_t capacity) {
  const __m512 limit = _mm512_set1_ps(threshold);
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int64_t c = 0, used = *num_ranks;
  for (; c < count && used + kPanelWidth <= capacity; c += 16) {
    const int64_t left = count - c;
    const __mmask16 inside = left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
    const __m512 lanes = _mm512_maskz_loadu_ps(inside, scores + c);
    const __mmask16 wanted = bounded ? _mm512_mask_cmp_ps_mask(inside, lanes, limit, _CMP_GT_OQ)
                                     : _mm512_mask_cmp_ps_mask(inside, lanes, lanes, _CMP_ORD_Q);
    if (wanted == 0) continue;
    // candidate_rank() of the wanted lanes: ~ordered_bits in the high word, the tiebreak in the low one.
    const __m512i bits = _mm512_maskz_compress_epi32(wanted, _mm512_castps_si512(lanes));
    const __m512i flip = _mm512_andnot_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7FFFFFFF));
    const __m512i high = _mm512_xor_si512(bits, flip);
    const __m512i tiebreak = _mm512_maskz_compress_epi32(
        wanted, _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first_tiebreak + static_cast<uint32_t>(c)))));
    const auto widen = [](__m256i high_words, __m256i low_words) {
      return _mm512_or_si512(_mm512_slli_epi64(_mm512_cvtepu32_epi64(high_words), 32),
                             _mm512_cvtepu32_epi64(low_words));
    };
    _mm512_storeu_si512(ranks + used, widen(_mm512_castsi512_si256(high), _mm512_castsi512_si256(tiebreak)));
    _mm512_storeu_si512(ranks + used + 8,
                        widen(_mm512_extracti64x4_epi64(high, 1), _mm512_extracti64x4_epi64(tiebreak, 1)));
    used += __builtin_popcount(wanted);
  }
  *num_ranks = used;
  return c < count ? c : count;
}

}  // namespace

const SimilarityKernels kAvx512Kernels = {
    "avx512", kPanelWidth, pack_panel, accumulate, squared_norm_chains, finish_score_row, guess_from_counts<Counting>,
    collect};

}  // namespace bse

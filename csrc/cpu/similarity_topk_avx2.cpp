// AVX2 + FMA kernels: register tiles of 6 rows x 16 candidates, one lane a pair.
//
// Compiled with -mavx2 -mfma; reached only through the table after the CPU has been asked (isa.cpp). Everything is in
// an anonymous namespace and nothing of the standard library's templates is used, so that no weak AVX symbol leaves
// here.

#include "simd_shared.h"
#include "similarity_kernels.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 16;
constexpr int kRowTile = 6;

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, kPanelWidth, panel);
}

template <int kRows>
inline void accumulate_tile(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                            int64_t acc_stride) {
  __m256 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) {
    low[i] = resume ? _mm256_load_ps(acc + i * acc_stride) : _mm256_setzero_ps();
    high[i] = resume ? _mm256_load_ps(acc + i * acc_stride + 8) : _mm256_setzero_ps();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const __m256 panel_low = _mm256_load_ps(panel + k * kPanelWidth);
    const __m256 panel_high = _mm256_load_ps(panel + k * kPanelWidth + 8);
    for (int i = 0; i < kRows; ++i) {
      const __m256 element = _mm256_broadcast_ss(rows[i] + k);
      low[i] = _mm256_fmadd_ps(element, panel_low, low[i]);
      high[i] = _mm256_fmadd_ps(element, panel_high, high[i]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    _mm256_store_ps(acc + i * acc_stride, low[i]);
    _mm256_store_ps(acc + i * acc_stride + 8, high[i]);
  }
}

void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  static constexpr Tile kTiles[kRowTile] = {accumulate_tile<1>, accumulate_tile<2>, accumulate_tile<3>,
                                            accumulate_tile<4>, accumulate_tile<5>, accumulate_tile<6>};
  accumulate_by_tiles(kTiles, kRowTile, kPanelWidth, rows, num_rows, panels, num_panels, depth, resume, acc,
                      acc_stride);
}

// What guess_from_counts asks.
struct Counting {
  // Lanes past the end are NaN.
  static __m256 load(const float* scores, int64_t left) {
    if (left >= 8) return _mm256_loadu_ps(scores);
    alignas(32) float padded[8];
    for (int i = 0; i < 8; ++i) padded[i] = i < left ? scores[i] : __builtin_nanf("");
    return _mm256_load_ps(padded);
  }

  static float reduce(__m256 lanes) {
    alignas(32) float parts[8];
    _mm256_store_ps(parts, lanes);
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  }

  static RowStatistics statistics(const float* scores, int64_t count) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    RowStatistics row;
    for (int64_t c = 0; c < count; c += 8) {
      const __m256 lanes = load(scores + c, count - c);
      const __m256 known = _mm256_cmp_ps(lanes, lanes, _CMP_ORD_Q);
      const __m256 values = _mm256_and_ps(lanes, known);
      sum = _mm256_add_ps(sum, values);
      squares = _mm256_fmadd_ps(values, values, squares);
      row.count += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(known)));
    }
    row.sum = reduce(sum);
    row.sum_of_squares = reduce(squares);
    return row;
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const __m256 limit = _mm256_set1_ps(threshold);
    __m256i above = _mm256_setzero_si256();
    for (int64_t c = 0; c < count; c += 8) {
      const __m256 wanted = _mm256_cmp_ps(load(scores + c, count - c), limit, _CMP_GT_OQ);
      above = _mm256_sub_epi32(above, _mm256_castps_si256(wanted));  // true is -1
    }
    alignas(32) int32_t parts[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), above);
    int64_t total = 0;
    for (const int32_t part : parts) total += part;
    return total;
  }
};

int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                uint64_t* ranks, int64_t* num_ranks, int64_t capacity) {
  const __m256 limit = _mm256_set1_ps(threshold);
  int64_t c = 0, used = *num_ranks;
  for (; c + 8 <= count && used + kPanelWidth <= capacity; c += 8) {
    const __m256 lanes = _mm256_loadu_ps(scores + c);
    const __m256 wanted = bounded ? _mm256_cmp_ps(lanes, limit, _CMP_GT_OQ) : _mm256_cmp_ps(lanes, lanes, _CMP_ORD_Q);
    for (int mask = _mm256_movemask_ps(wanted); mask != 0; mask &= mask - 1) {
      const int64_t hit = c + __builtin_ctz(static_cast<unsigned>(mask));
      ranks[used++] = candidate_rank(scores[hit], first_tiebreak + static_cast<uint32_t>(hit));
    }
  }
  for (; c < count && c + 8 > count && used + kPanelWidth <= capacity; ++c) {
    if (bounded ? scores[c] > threshold : scores[c] == scores[c]) {
      ranks[used++] = candidate_rank(scores[c], first_tiebreak + static_cast<uint32_t>(c));
    }
  }
  *num_ranks = used;
  return c;
}

}  // namespace

const SimilarityKernels kAvx2Kernels = {
    "avx2", kPanelWidth, pack_panel, accumulate, squared_norm_chains, finish_score_row, guess_from_counts<Counting>,
    collect};

}  // namespace bse

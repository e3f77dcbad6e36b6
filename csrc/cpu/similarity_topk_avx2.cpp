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
    "avx2", kPanelWidth, pack_panel, accumulate, squared_norm_chains, finish_score_row, guess_from_histogram, collect};

}  // namespace bse

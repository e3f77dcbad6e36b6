// AVX2 + FMA kernels: register tiles of 6 rows x 16 candidates, one lane a pair.
//
// Compiled with -mavx2 -mfma; reached only through the table after the CPU has been asked (isa.cpp). Everything is in
// an anonymous namespace and nothing of the standard library's templates is used, so that no weak AVX symbol leaves
// here.

#include <immintrin.h>

#include "similarity_kernels.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 16;
constexpr int kRowTile = 6;

// 8 x 8 transpose: rows[r][0..8) -> panel[k * kPanelWidth + r].
inline void transpose_8x8(const float* const* rows, int64_t k, float* panel) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(rows[i] + k);
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i + 0] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_store_ps(panel + (k + i) * kPanelWidth, _mm256_permute2f128_ps(r[i], r[4 + i], 0x20));
    _mm256_store_ps(panel + (k + 4 + i) * kPanelWidth, _mm256_permute2f128_ps(r[i], r[4 + i], 0x31));
  }
}

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  int64_t k = 0;
  if (num_rows == kPanelWidth) {
    for (; k + 8 <= depth; k += 8) {
      transpose_8x8(rows, k, panel);
      transpose_8x8(rows + 8, k, panel + 8);
    }
  }
  for (; k < depth; ++k) {
    for (int c = 0; c < kPanelWidth; ++c) panel[k * kPanelWidth + c] = c < num_rows ? rows[c][k] : 0.0f;
  }
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
  using Tile = void (*)(const float* const*, const float*, int64_t, bool, float*, int64_t);
  static constexpr Tile kTiles[kRowTile] = {accumulate_tile<1>, accumulate_tile<2>, accumulate_tile<3>,
                                            accumulate_tile<4>, accumulate_tile<5>, accumulate_tile<6>};
  for (int p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * depth * kPanelWidth;
    for (int i = 0; i < num_rows; i += kRowTile) {
      const int tile_rows = num_rows - i < kRowTile ? num_rows - i : kRowTile;
      kTiles[tile_rows - 1](rows + i, panel, depth, resume, acc + i * acc_stride + p * kPanelWidth, acc_stride);
    }
  }
}

// Eight chains at a time: each is sequential, together they hide the latency of the fused multiply-add.
void squared_norms(const float* const* rows, int num_rows, int64_t depth, bool resume, float* norms) {
  int i = 0;
  for (; i + 8 <= num_rows; i += 8) {
    float chain[8];
    for (int j = 0; j < 8; ++j) chain[j] = resume ? norms[i + j] : 0.0f;
    for (int64_t k = 0; k < depth; ++k) {
      for (int j = 0; j < 8; ++j) chain[j] = fmaf(rows[i + j][k], rows[i + j][k], chain[j]);
    }
    for (int j = 0; j < 8; ++j) norms[i + j] = chain[j];
  }
  for (; i < num_rows; ++i) {
    float chain = resume ? norms[i] : 0.0f;
    for (int64_t k = 0; k < depth; ++k) chain = fmaf(rows[i][k], rows[i][k], chain);
    norms[i] = chain;
  }
}

// The same operations as finish_score, eight lanes at a time: the compiler vectorises each branch of the metric.
void finish_scores(Metric metric, float row_term, const float* terms, int64_t count, float* acc) {
  if (metric == Metric::kCosine) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kCosine, acc[c], row_term, terms[c]);
  } else if (metric == Metric::kL2) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kL2, acc[c], row_term, terms[c]);
  } else {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kInnerProduct, acc[c], row_term, terms[c]);
  }
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

const SimilarityKernels kAvx2Kernels = {"avx2",        kPanelWidth,   pack_panel, accumulate,
                                        squared_norms, finish_scores, collect};

}  // namespace bse

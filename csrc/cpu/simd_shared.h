// Pieces that several similarity_topk_<isa>.cpp files share, compiled anew in each for its own instruction set.
//
// Everything is static or in an anonymous namespace: included in an instruction-set file only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../common/score.h"

namespace bse {
namespace {

// 8 x 8 transpose: rows[r][k .. k + 8) -> panel[(k + i) * panel_width + r].
inline void transpose_8x8(const float* const* rows, int64_t k, int panel_width, float* panel) {
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
    _mm256_store_ps(panel + (k + i) * panel_width, _mm256_permute2f128_ps(r[i], r[4 + i], 0x20));
    _mm256_store_ps(panel + (k + 4 + i) * panel_width, _mm256_permute2f128_ps(r[i], r[4 + i], 0x31));
  }
}

// SimilarityKernels::pack_panel for a panel of whole eights of columns.
inline void pack_columns(const float* const* rows, int num_rows, int64_t depth, int panel_width, float* panel) {
  for (int column = 0; column < panel_width; column += 8) {
    int64_t k = 0;
    if (column + 8 <= num_rows) {
      for (; k + 8 <= depth; k += 8) transpose_8x8(rows + column, k, panel_width, panel + column);
    }
    for (; k < depth; ++k) {
      for (int c = column; c < column + 8; ++c) panel[k * panel_width + c] = c < num_rows ? rows[c][k] : 0.0f;
    }
  }
}

// Eight chains at a time: each is sequential, together they hide the latency of the fused multiply-add.
inline void squared_norm_chains(const float* const* rows, int num_rows, int64_t depth, bool resume, float* norms) {
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

// finish_score of a row: the compiler vectorises each branch of the metric.
inline void finish_score_row(Metric metric, float row_term, const float* terms, int64_t count, float* acc) {
  if (metric == Metric::kCosine) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kCosine, acc[c], row_term, terms[c]);
  } else if (metric == Metric::kL2) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kL2, acc[c], row_term, terms[c]);
  } else {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kInnerProduct, acc[c], row_term, terms[c]);
  }
}

// A register tile: some rows times one panel. Arguments as SimilarityKernels::accumulate.
using Tile = void (*)(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                      int64_t acc_stride);

// SimilarityKernels::accumulate by tiles: tiles[n - 1] takes n rows, max_rows at most.
inline void accumulate_by_tiles(const Tile* tiles, int max_rows, int panel_width, const float* const* rows,
                                int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                                float* acc, int64_t acc_stride) {
  for (int p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * depth * panel_width;
    for (int i = 0; i < num_rows; i += max_rows) {
      const int tile_rows = num_rows - i < max_rows ? num_rows - i : max_rows;
      tiles[tile_rows - 1](rows + i, panel, depth, resume, acc + i * acc_stride + p * panel_width, acc_stride);
    }
  }
}

// SimilarityKernels::guess_threshold: a histogram of the scores between their extremes.
inline bool guess_from_histogram(const float* scores, int64_t count, int64_t num_wanted, float* threshold) {
  constexpr int kNumBuckets = 256, kNumCopies = 4;  // copies: equal scores in a row must not wait for each other
  float lowest = scores[0], highest = scores[0];
  for (int64_t c = 0; c < count; ++c) {
    lowest = scores[c] < lowest ? scores[c] : lowest;
    highest = scores[c] > highest ? scores[c] : highest;
  }
  const float scale = (kNumBuckets - 1) / (highest - lowest);
  if (!(scale > 0.0f && scale < 1e30f)) return false;  // all equal, infinite or NaN

  uint16_t counts[kNumCopies][kNumBuckets] = {};
  constexpr int64_t kStride = 64;
  int32_t buckets[kStride];
  for (int64_t first = 0; first < count; first += kStride) {
    const int64_t size = count - first < kStride ? count - first : kStride;
    for (int64_t c = 0; c < size; ++c) {
      const float above = scores[first + c] > lowest ? (scores[first + c] - lowest) * scale : 0.0f;
      buckets[c] = static_cast<int32_t>(above);
    }
    for (int64_t c = 0; c < size; ++c) ++counts[c % kNumCopies][buckets[c] & (kNumBuckets - 1)];
  }
  int64_t num_above = 0;
  for (int bucket = kNumBuckets - 1; bucket > 0; --bucket) {
    for (const auto& copy : counts) num_above += copy[bucket];
    if (num_above >= num_wanted) {
      *threshold = lowest + (static_cast<float>(bucket) - 0.01f) / scale;
      return true;
    }
  }
  return false;
}

}  // namespace
}  // namespace bse

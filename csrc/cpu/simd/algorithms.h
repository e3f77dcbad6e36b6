// What the SIMD files share whatever their instruction set, compiled anew in each for its own.
//
// Everything is in an anonymous namespace: included in instruction-set files only.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/philox.h"
#include "common/score.h"
#include "cpu/simd/kernel_table.h"

namespace bse {
namespace {

// KernelTable::squared_norms.
template <int kPanelWidth>
inline void squared_norms(const float* panel, int64_t depth, bool resume, float* norms) {
  float chains[kPanelWidth];
  for (int c = 0; c < kPanelWidth; ++c) chains[c] = resume ? norms[c] : 0.0f;
  for (int64_t k = 0; k < depth; ++k, panel += kPanelWidth) {
    for (int c = 0; c < kPanelWidth; ++c) chains[c] = fmaf(panel[c], panel[c], chains[c]);
  }
  for (int c = 0; c < kPanelWidth; ++c) norms[c] = chains[c];
}

// finish_score of a row: the compiler vectorizes each branch of the metric.
inline void finish_score_row(Metric metric, float row_norm, const float* norms, int64_t count, float* acc) {
  if (metric == Metric::kCosine) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kCosine, acc[c], row_norm, norms[c]);
  } else if (metric == Metric::kL2) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kL2, acc[c], row_norm, norms[c]);
  } else {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kInnerProduct, acc[c], row_norm, norms[c]);
  }
}

// A register tile: some rows times one panel. Arguments as KernelTable::accumulate.
using Tile = void (*)(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                      int64_t acc_stride);

// KernelTable::accumulate by tiles: tiles[n - 1] takes n rows, max_rows at most.
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

// Of the scores of a row that are not NaN.
struct RowStatistics {
  float sum = 0.0f, sum_of_squares = 0.0f;
  int64_t count = 0;
};

// z that a standard normal variable exceeds with probability p (Abramowitz and Stegun 26.2.23, error below 5e-4).
inline float normal_quantile_above(float p) {
  const float tail = p < 0.5f ? p : 1.0f - p;
  const float t = sqrtf(-2.0f * logf(tail));
  const float z =
      t - (2.515517f + t * (0.802853f + t * 0.010328f)) / (1.0f + t * (1.432788f + t * (0.189269f + t * 0.001308f)));
  return p < 0.5f ? z : -z;
}

// KernelTable::guess_threshold: where a normal distribution would have it, then Newton steps on the count of
// scores above, within what is known to be too low and too high. Simd gives statistics() and count_above().
template <class Simd>
inline bool guess_from_counts(const float* scores, int64_t count, int64_t num_wanted, float* threshold) {
  constexpr int kMaxSteps = 8;
  const RowStatistics row = Simd::statistics(scores, count);
  if (row.count <= num_wanted) return false;
  const int64_t slack = num_wanted / 4 > 16 ? num_wanted / 4 : 16;
  const float size = static_cast<float>(row.count);
  const float target = static_cast<float>(num_wanted) + 0.5f * static_cast<float>(slack);
  if (target >= size) return false;
  const float mean = row.sum / size;
  const float variance = row.sum_of_squares / size - mean * mean;
  if (!(variance > 0.0f && variance < 1e30f)) return false;  // all equal, infinite
  const float deviation = sqrtf(variance);
  const float z = normal_quantile_above(target / size);
  const float density = size * 0.3989423f * expf(-0.5f * z * z) / deviation;  // scores per unit of the threshold

  bool has_low = false, has_high = false;
  float low = 0.0f, high = 0.0f, guess = mean + z * deviation;
  for (int step = 0; step < kMaxSteps; ++step) {
    const int64_t above = Simd::count_above(scores, count, guess);
    if (above >= num_wanted) {
      has_low = true;
      low = guess;
      if (above <= num_wanted + slack) break;
    } else {
      has_high = true;
      high = guess;
    }
    guess += (static_cast<float>(above) - target) / density;
    const bool is_outside = (has_low && !(guess > low)) || (has_high && !(guess < high));
    if (is_outside) {
      if (!has_low || !has_high) return false;
      guess = 0.5f * (low + high);
      if (!(guess > low && guess < high)) break;
    }
  }
  *threshold = low;
  return has_low;
}

// The lowest `count` set bits.
inline unsigned first_set_bits(unsigned bits, int64_t count) {
  unsigned first = 0;
  for (; count > 0 && bits != 0; --count, bits &= bits - 1) first |= bits & (0u - bits);
  return first;
}

// KernelTable::find_cut: regula falsi on the count of scores above; where that is slow, bisection of the order of
// all floats. Ends when exactly num_best are above or two neighboring floats are left.
template <class Simd>
inline TopKCut find_cut_by_counts(const float* scores, int64_t count, int64_t num_best) {
  constexpr int kNumInterpolations = 8;
  float low, high;
  Simd::extremes(scores, count, &low, &high);
  uint32_t low_key = ordered_bits(low) - 1, high_key = ordered_bits(high);
  int64_t above_low = count, above_high = 0;  // above_low > num_best (or nothing is to be cut) > above_high
  for (int step = 0; high_key - low_key > 1; ++step) {
    float middle =
        low + (high - low) * (static_cast<float>(above_low - num_best) / static_cast<float>(above_low - above_high));
    uint32_t middle_key = ordered_bits(middle + 0.0f);
    const bool is_between = middle_key > low_key && middle_key < high_key;  // no if an extreme is infinite
    if (!is_between || (step >= kNumInterpolations && step % 2 == 0)) {
      middle_key = low_key + (high_key - low_key) / 2;
      middle = from_ordered_bits(middle_key);
    }
    const int64_t above = Simd::count_above(scores, count, middle);
    if (above == num_best) return {middle, 0};
    if (above > num_best) {
      low = middle;
      low_key = middle_key;
      above_low = above;
    } else {
      high = middle;
      high_key = middle_key;
      above_high = above;
    }
  }
  return {high, num_best - above_high};
}

}  // namespace
}  // namespace bse

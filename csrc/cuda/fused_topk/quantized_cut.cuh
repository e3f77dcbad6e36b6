// Which columns of a row of quantized are the best `rank`, as far as quantized can tell. By a warp.
//
// Let T be the rank-th largest score and w the window (quantized_score.cuh): quantized that differ by more than w are
// in the order of the defined scores. Who is above T + w is among the best: all that could be better have a score above
// T, fewer than `rank` with itself. Who is below T - w is not: `rank` others, whose quantized are not below T, are
// better. Those between are close: if all of them fit, they are the best too, else their defined scores decide.
//
// T is found by counting quantized that are not below a guess. The first guess is that of the row before, as rows are
// much alike; then interpolation of the counts on both sides, and bisection where that does not end it: at most
// tuning::kInterpolations + 15 counts, of some 45 instructions for 1024 columns. Usually a guess splits the row, with
// nobody close below, before T is known.
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// What the row before taught, in each lane alike. It decides how long a search takes, not what it finds.
struct ThresholdGuess {
  int threshold = 16384 + 1600;  // a cosine of 0.1
  float steps_per_rank = 8.0f;

  // As a word, to begin with elsewhere; 0: nothing is known yet.
  BSE_DEVICE explicit ThresholdGuess(uint32_t word) {
    if (word == 0) return;
    threshold = static_cast<int>(word >> 16);
    steps_per_rank = static_cast<float>(word & 0xFFFFu) / 16.0f;
  }
  BSE_DEVICE ThresholdGuess(int threshold_, float steps_per_rank_)
      : threshold(threshold_), steps_per_rank(steps_per_rank_) {}
  BSE_DEVICE uint32_t word() const {
    return static_cast<uint32_t>(threshold) << 16 | static_cast<uint32_t>(min(steps_per_rank * 16.0f, 65535.0f));
  }
};

template <int kParts>
struct QuantizedCut {
  ColumnSet<kParts> best, close;
  uint32_t num_close, num_wanted;  // of the close columns, num_wanted < num_close are among the best; 0: none is close
};

template <int kParts>
BSE_DEVICE QuantizedCut<kParts> cut_after(const QuantizedRow<kParts>& row, uint32_t rank, uint32_t window,
                                          ThresholdGuess* guess) {
  const auto split = [&](const ColumnSet<kParts>& best) { return QuantizedCut<kParts>{best, {}, 0, 0}; };
  // Of quantized not below `low` there are `num_low` >= rank, of those not below `high` fewer. Nothing is below 0.
  int low = 0, high = kQuantizedEnd;
  uint32_t num_low = 1024 * kParts, num_high = 0;
  int threshold = guess->threshold;
  float steps_per_rank = guess->steps_per_rank, stride = 1.0f;
  for (int count = 0;; ++count) {
    const ColumnSet<kParts> found = row.at_least(static_cast<uint32_t>(threshold));
    const uint32_t num_found = found.size();
    const auto wide = static_cast<uint32_t>(max(threshold - static_cast<int>(window), 1));
    if (num_found == rank && row.at_least(wide).size() == rank) {
      *guess = ThresholdGuess(threshold, steps_per_rank);
      return split(found);
    }
    if (num_found >= rank) {
      low = threshold;
      num_low = num_found;
    } else {
      high = threshold;
      num_high = num_found;
    }
    if (high - low == 1) break;
    const bool is_bracketed = low > 0 && high < static_cast<int>(kQuantizedEnd);
    int next = (low + high) / 2;
    if (count < tuning::kInterpolations && is_bracketed) {
      const float ratio = static_cast<float>(high - low) / static_cast<float>(num_low - num_high);
      next = low + static_cast<int>(ratio * (static_cast<float>(num_low - rank) + 0.5f));
      next = min(max(next, low + 1), high - 1);
      if (ratio > 0.25f) steps_per_rank = ratio;
    } else if (count < tuning::kInterpolations) {
      const float off = static_cast<float>(static_cast<int>(num_found) - static_cast<int>(rank));
      const float step = (off < 0.0f ? off - 0.5f : off + 0.5f) * steps_per_rank * stride;
      const float end = static_cast<float>(kQuantizedEnd);
      const int far = threshold + static_cast<int>(min(max(step, -end), end));
      if (low < far && far < high) next = far;
      stride *= 2.0f;
    }
    threshold = next;
  }
  if (low == 0) return split(row.at_least(1));  // fewer than `rank` may be linked
  *guess = ThresholdGuess(low, steps_per_rank);
  const ColumnSet<kParts> best = row.at_least(min(static_cast<uint32_t>(low) + window + 1, kQuantizedEnd));
  const ColumnSet<kParts> wide = row.at_least(static_cast<uint32_t>(max(low - static_cast<int>(window), 1)));
  const uint32_t num_best = best.size(), num_wide = wide.size();
  if (num_wide <= rank) return split(wide);
  return {best, wide.without(best), num_wide - num_best, rank - num_best};
}

}  // namespace bse::cuda

// Finds the best `rank` columns of a row of quantized scores, as far as these can tell, with one warp.
//
// Let T be the rank-th largest quantized score and w the window. If quantized scores differ by more than w, exact
// scores are in the same order (quantized_score.cuh). A candidate above T + w is certainly among the best: only
// candidates above T could be better, and these are fewer than `rank`. One below T - w certainly is not: `rank`
// candidates reach T, and all of them are better. Candidates in between are close. If only `rank` candidates reach
// T - w, the close ones are among the best too. Otherwise exact scores decide between them.
//
// T is found by counting the scores that reach a guess. The first guess is that of the previous row, as rows are much
// alike. Later guesses interpolate between the counts on both sides, then bisect. At most tuning::kInterpolations + 15
// counts are made; tuning.h says what they cost. Usually a guess splits the row before T is known: exactly `rank`
// scores reach it, and none lies within the window below.
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// Result of the search in the previous row, equal in all lanes. It affects only how long a search takes.
struct ThresholdGuess {
  int threshold = 16384 + 1600;  // a cosine of 0.1
  float steps_per_rank = 8.0f;

  // Packed into one word for other blocks; 0: nothing is known yet.
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
  // num_low >= rank scores reach `low`, num_high < rank scores reach `high`. Every score reaches 0.
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
  if (low == 0) return split(row.at_least(1));  // fewer than `rank` candidates are allowed
  *guess = ThresholdGuess(low, steps_per_rank);
  const ColumnSet<kParts> best = row.at_least(min(static_cast<uint32_t>(low) + window + 1, kQuantizedEnd));
  const ColumnSet<kParts> wide = row.at_least(static_cast<uint32_t>(max(low - static_cast<int>(window), 1)));
  const uint32_t num_best = best.size(), num_wide = wide.size();
  if (num_wide <= rank) return split(wide);
  return {best, wide.without(best), num_wide - num_best, rank - num_best};
}

}  // namespace bse::cuda

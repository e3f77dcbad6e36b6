// The best scores seen so far of one row: exact, for any K, whatever the order and the ties.
//
// Scores and their tiebreaks are appended in tiebreak order; when the buffer is full it is cut back to the best
// num_selected, in place and stably, and from then on only scores above a threshold can enter. Nothing is ever dropped
// for lack of room. Because later candidates have larger tiebreaks, "above the worst kept" may be strict.
//
// Scores that only prefilter (prefilter.h) keep a margin: what is within it of the worst of the best is kept as well.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/kernel_table.h"

namespace bse {

// The largest float that is not above the value.
inline float float_below(double value) {
  const auto rounded = static_cast<float>(value);
  return rounded > value ? std::nextafter(rounded, -std::numeric_limits<float>::infinity()) : rounded;
}

class TopKBuffer {
 public:
  // Room for a buffer that is cut back often enough to stay cheap and seldom enough to be worth it.
  static int64_t capacity(int64_t num_selected, int64_t num_candidates, int panel_width) {
    const int64_t size = std::min(num_candidates, 2 * num_selected + 64) + panel_width;
    return (size + 15) / 16 * 16;
  }

  // scores, tiebreaks: [capacity], borrowed; margin: 0 for defined scores
  TopKBuffer(float* scores, uint32_t* tiebreaks, int64_t capacity, int64_t num_selected, double margin)
      : scores_(scores), tiebreaks_(tiebreaks), capacity_(capacity), num_selected_(num_selected), margin_(margin) {}

  // scores: [count], NaN where a candidate is not wanted; the tiebreak of scores[c] is first_tiebreak + c
  void add(const KernelTable& kernels, const float* scores, int64_t count, uint32_t first_tiebreak) {
    if (size_ == 0 && !bounded_ && count > num_selected_) {
      float guess;
      if (kernels.guess_threshold(scores, count, num_selected_, &guess)) {
        bounded_ = true;
        threshold_ = below_margin(guess);
        collect(kernels, scores, count, first_tiebreak);
        // With num_selected scores above the guess, all that is not above the threshold is out for good.
        if (size_ >= num_selected_) return;
        bounded_ = false;
        size_ = 0;
      }
    }
    collect(kernels, scores, count, first_tiebreak);
  }

  // Cuts to the best num_selected, which end at cut_score() then, and what is within the margin of them. False
  // if that cannot be told: too many are, or what a threshold has kept out might belong to them.
  bool finish_prefilter(const KernelTable& kernels) {
    cut(kernels);
    return !bounded_ || (size_ >= num_selected_ && below_margin(cut_score_) >= threshold_);
  }

  // For defined scores: cuts to the best num_selected, then drops the best num_skipped of those. The rest stays in the
  // order it came in.
  void finish(const KernelTable& kernels, int64_t num_skipped) {
    cut(kernels);
    const int64_t skipped = std::min(num_skipped, size_);
    if (skipped == 0) return;
    size_ = kernels.filter(scores_, tiebreaks_, size_, kernels.find_cut(scores_, size_, skipped), false);
  }

  // Takes one score that is not below entry_score(). True if that cut the buffer, which raises entry_score().
  bool push(const KernelTable& kernels, float score, uint32_t tiebreak) {
    scores_[size_] = score;
    tiebreaks_[size_++] = tiebreak;
    if (size_ + kernels.panel_width <= capacity_) return false;
    cut(kernels);
    return true;
  }

  // Takes what an other buffer has found among later candidates.
  void append(const KernelTable& kernels, const TopKBuffer& other) {
    for (int64_t n = 0; n < other.size_; ++n) {
      if (!bounded_ || other.scores_[n] > threshold_) push(kernels, other.scores_[n], other.tiebreaks_[n]);
    }
  }

  // For an empty buffer: only scores above are wanted.
  void set_threshold(float threshold) {
    bounded_ = true;
    threshold_ = threshold;
  }

  // For an empty buffer: only what could still enter `other` is wanted.
  void take_threshold(const TopKBuffer& other) {
    bounded_ = other.bounded_;
    threshold_ = other.threshold_;
  }

  // The lowest score that may still enter.
  float entry_score() const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    return bounded_ ? std::nextafter(threshold_, kInfinity) : -kInfinity;
  }

  // Keeps what scores above the limit, or what does not.
  void filter(const KernelTable& kernels, float limit, bool above) {
    size_ = kernels.filter(scores_, tiebreaks_, size_, {limit, 0}, above);
  }
  void clear() { size_ = 0; }
  void set_score(int64_t n, float score) { scores_[n] = score; }
  // All scores are defined ones from here on.
  void end_prefilter() { margin_ = 0.0; }

  float cut_score() const { return cut_score_; }
  int64_t size() const { return size_; }
  const float* scores() const { return scores_; }
  const uint32_t* tiebreaks() const { return tiebreaks_; }

 private:
  void collect(const KernelTable& kernels, const float* scores, int64_t count, uint32_t first_tiebreak) {
    for (int64_t done = 0; done < count;) {
      done += kernels.collect(scores + done, count - done, first_tiebreak + static_cast<uint32_t>(done), bounded_,
                              threshold_, scores_, tiebreaks_, &size_, capacity_);
      if (size_ + kernels.panel_width > capacity_) cut(kernels);
    }
  }

  void cut(const KernelTable& kernels) {
    if (size_ < num_selected_ || (size_ == num_selected_ && margin_ == 0.0)) return;
    TopKCut cut = kernels.find_cut(scores_, size_, num_selected_);
    cut_score_ = cut.score;
    if (margin_ > 0.0) {
      const float limit = below_margin(cut_score_);
      cut = {bounded_ ? std::max(limit, threshold_) : limit, 0};
    }
    size_ = kernels.filter(scores_, tiebreaks_, size_, cut, true);
    bounded_ = true;
    threshold_ = cut.score;
    if (size_ + kernels.panel_width > capacity_) {  // more within the margin than there is room for: undecided
      size_ = 0;
      threshold_ = std::numeric_limits<float>::infinity();
    }
  }

  // A score that is out, if num_selected others have this one or better.
  float below_margin(float score) const {
    if (margin_ == 0.0) return score;
    return float_below(static_cast<double>(score) - margin_);
  }

  float* scores_;
  uint32_t* tiebreaks_;
  int64_t capacity_, num_selected_;
  double margin_;  // twice the error of a score
  int64_t size_ = 0;
  bool bounded_ = false;
  float threshold_ = 0.0f, cut_score_ = 0.0f;
};

// Room for the buffers of many rows.
class TopKStorage {
 public:
  TopKStorage(int64_t num_rows, int64_t capacity) : capacity_(capacity), data_(num_rows * capacity * kEntryBytes) {
    prefer_huge_pages(data_.data(), num_rows * capacity * kEntryBytes);
  }

  static int64_t bytes(int64_t num_rows, int64_t capacity) { return num_rows * capacity * kEntryBytes; }

  // An empty buffer in the place of a row.
  TopKBuffer buffer(int64_t row, int64_t num_selected, double margin = 0.0) {
    char* scores = data_.data() + row * capacity_ * kEntryBytes;
    return {reinterpret_cast<float*>(scores), reinterpret_cast<uint32_t*>(scores + 4 * capacity_), capacity_,
            num_selected, margin};
  }

 private:
  static constexpr int64_t kEntryBytes = 8;
  int64_t capacity_;
  AlignedBuffer<char> data_;
};

}  // namespace bse

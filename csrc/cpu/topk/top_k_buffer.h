// The best scores of one row so far. The selection is exact for any K, any order of scores and any ties.
//
// Scores and their tiebreaks are appended in tiebreak order. A full buffer is cut to its best num_selected entries, in
// place and in order. From then on, only scores above the worst of these enter. A score equal to it cannot be selected,
// because later candidates have larger tiebreaks. No exact score is dropped for lack of room.
//
// Approximate scores (prefilter.h) have a margin: a cut also keeps the entries within the margin below the worst of the
// best. If these do not fit, the row stays undecided.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/kernel_table.h"

namespace bse {

// Returns the largest float that is not above the value.
inline float float_below(double value) {
  const auto rounded = static_cast<float>(value);
  return rounded > value ? std::nextafter(rounded, -std::numeric_limits<float>::infinity()) : rounded;
}

class TopKBuffer {
 public:
  // Returns a capacity that balances the cost of scanning a large buffer against that of cutting a small one often.
  static int64_t capacity(int64_t num_selected, int64_t num_candidates, int panel_width) {
    const int64_t size = std::min(num_candidates, 2 * num_selected + 64) + panel_width;
    return (size + 15) / 16 * 16;
  }

  // scores, tiebreaks: [capacity], borrowed; margin: 0 for exact scores
  TopKBuffer(float* scores, uint32_t* tiebreaks, int64_t capacity, int64_t num_selected, double margin)
      : scores_(scores), tiebreaks_(tiebreaks), capacity_(capacity), num_selected_(num_selected), margin_(margin) {}

  // Adds scores: [count], NaN for excluded candidates. The tiebreak of scores[c] is first_tiebreak + c.
  void add(const KernelTable& kernels, const float* scores, int64_t count, uint32_t first_tiebreak) {
    if (size_ == 0 && !bounded_ && count > num_selected_) {
      float guess;
      if (kernels.guess_threshold(scores, count, num_selected_, &guess)) {
        bounded_ = true;
        threshold_ = below_margin(guess);
        collect(kernels, scores, count, first_tiebreak);
        // If num_selected scores are above the guess, no score at or below the threshold can be selected.
        if (size_ >= num_selected_) return;
        bounded_ = false;
        size_ = 0;
      }
    }
    collect(kernels, scores, count, first_tiebreak);
  }

  // Keeps the best num_selected entries, the last of which has cut_score(), and all entries within the margin below it.
  // Returns false if such entries may be missing, because there was no room or a threshold rejected them.
  bool finish_prefilter(const KernelTable& kernels) {
    cut(kernels);
    return !bounded_ || (size_ >= num_selected_ && below_margin(cut_score_) >= threshold_);
  }

  // Takes better approximate scores of all entries, and cuts them as finish_prefilter() did. improve(scores) turns the
  // scores into better ones, in place; margin: of these
  template <class Improve>
  void refine(const KernelTable& kernels, double margin, const Improve& improve) {
    improve(scores_);
    margin_ = margin;
    bounded_ = false;
    cut(kernels);
  }

  // For exact scores: cuts to the best num_selected, then drops the best num_skipped of these. The others keep their
  // order.
  void finish(const KernelTable& kernels, int64_t num_skipped) {
    cut(kernels);
    const int64_t skipped = std::min(num_skipped, size_);
    if (skipped == 0) return;
    size_ = kernels.filter(scores_, tiebreaks_, size_, kernels.find_cut(scores_, size_, skipped), false);
  }

  // Adds one score that is not below entry_score(). Returns true if this cut the buffer, which raises entry_score().
  bool push(const KernelTable& kernels, float score, uint32_t tiebreak) {
    scores_[size_] = score;
    tiebreaks_[size_++] = tiebreak;
    if (size_ + kernels.panel_width <= capacity_) return false;
    cut(kernels);
    return true;
  }

  // Adds the entries of another buffer, which has seen later candidates.
  void append(const KernelTable& kernels, const TopKBuffer& other) {
    for (int64_t n = 0; n < other.size_; ++n) {
      if (!bounded_ || other.scores_[n] > threshold_) push(kernels, other.scores_[n], other.tiebreaks_[n]);
    }
  }

  // For an empty buffer: admits only scores above the threshold.
  void set_threshold(float threshold) {
    bounded_ = true;
    threshold_ = threshold;
  }

  // For an empty buffer: admits only scores that could enter `other`.
  void take_threshold(const TopKBuffer& other) {
    bounded_ = other.bounded_;
    threshold_ = other.threshold_;
  }

  // Returns the lowest score that may enter.
  float entry_score() const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    return bounded_ ? std::nextafter(threshold_, kInfinity) : -kInfinity;
  }

  // Keeps the entries above the limit, or the others if `above` is false.
  void filter(const KernelTable& kernels, float limit, bool above) {
    size_ = kernels.filter(scores_, tiebreaks_, size_, {limit, 0}, above);
  }
  void clear() { size_ = 0; }
  void set_score(int64_t n, float score) { scores_[n] = score; }
  // Declares that all scores are exact from here on.
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
    if (size_ + kernels.panel_width > capacity_) {  // too many entries within the margin: the row stays undecided
      size_ = 0;
      threshold_ = std::numeric_limits<float>::infinity();
    }
  }

  // Returns the highest score that cannot be selected if num_selected others have `score` or a better one.
  float below_margin(float score) const {
    if (margin_ == 0.0) return score;
    return float_below(static_cast<double>(score) - margin_);
  }

  float* scores_;
  uint32_t* tiebreaks_;
  int64_t capacity_, num_selected_;
  double margin_;  // twice the bound on the error of a score
  int64_t size_ = 0;
  bool bounded_ = false;
  float threshold_ = 0.0f, cut_score_ = 0.0f;
};

// Storage for the buffers of many rows.
class TopKStorage {
 public:
  TopKStorage(int64_t num_rows, int64_t capacity) : capacity_(capacity), data_(num_rows * capacity * kEntryBytes) {
    prefer_huge_pages(data_.data(), num_rows * capacity * kEntryBytes);
  }

  static int64_t bytes(int64_t num_rows, int64_t capacity) { return num_rows * capacity * kEntryBytes; }

  // Returns an empty buffer in the storage of a row.
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

// The best scores seen so far of one row: exact, for any K, whatever the order and the ties.
//
// Scores and their tiebreaks are appended in tiebreak order; when the buffer is full it is cut back to the best
// num_selected, in place and stably, and from then on only scores above a threshold can enter. Nothing is ever dropped
// for lack of room. Because later candidates have larger tiebreaks, "above the worst kept" may be strict.
//
// Scores that only screen (screening.h) keep a margin: what is within it of the worst of the best is kept as well.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "aligned_buffer.h"
#include "huge_pages.h"
#include "kernels.h"

namespace bse {

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

  // Cuts to the best num_selected, the last of which has cut_score() then, and what is within the margin of them. False
  // if that cannot be told: too many are, or a guess was too high.
  bool finish_screening(const KernelTable& kernels) {
    cut(kernels);
    return !is_undecided_;
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

  // Keeps entry n if keep(n, score) says so, asked in order.
  template <class Keep>
  void retain(const Keep& keep) {
    int64_t num_kept = 0;
    for (int64_t n = 0; n < size_; ++n) {
      if (!keep(n, scores_[n])) continue;
      scores_[num_kept] = scores_[n];
      tiebreaks_[num_kept++] = tiebreaks_[n];
    }
    size_ = num_kept;
  }
  void clear() { size_ = 0; }
  void set_score(int64_t n, float score) { scores_[n] = score; }

  float cut_score() const { return cut_score_; }
  int64_t size() const { return size_; }
  const float* scores() const { return scores_; }
  const uint32_t* tiebreaks() const { return tiebreaks_; }

 private:
  void collect(const KernelTable& kernels, const float* scores, int64_t count, uint32_t first_tiebreak) {
    for (int64_t done = 0; done < count && !is_undecided_;) {
      done += kernels.collect(scores + done, count - done, first_tiebreak + static_cast<uint32_t>(done), bounded_,
                              threshold_, scores_, tiebreaks_, &size_, capacity_);
      if (size_ + kernels.panel_width > capacity_) cut(kernels);
    }
  }

  void cut(const KernelTable& kernels) {
    if (size_ <= num_selected_) return;
    TopKCut cut = kernels.find_cut(scores_, size_, num_selected_);
    cut_score_ = cut.score;
    if (margin_ > 0.0) {
      cut = {below_margin(cut.score), 0};
      is_undecided_ = is_undecided_ || (bounded_ && cut.score < threshold_);
    }
    size_ = kernels.filter(scores_, tiebreaks_, size_, cut, true);
    if (margin_ > 0.0) is_undecided_ = is_undecided_ || size_ + kernels.panel_width > capacity_;
    bounded_ = true;
    threshold_ = cut.score;
  }

  // A score that is out, if num_selected others have this one or better.
  float below_margin(float score) const {
    if (margin_ == 0.0) return score;
    const double exact = static_cast<double>(score) - margin_;
    const auto rounded = static_cast<float>(exact);
    return rounded > exact ? std::nextafter(rounded, -std::numeric_limits<float>::infinity()) : rounded;
  }

  float* scores_;
  uint32_t* tiebreaks_;
  int64_t capacity_, num_selected_;
  double margin_;  // twice the error of a score
  bool is_undecided_ = false;
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

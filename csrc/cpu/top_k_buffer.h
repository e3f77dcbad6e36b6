// The best ranks seen so far of one row: exact, for any K, whatever the order and the ties.
//
// Ranks (score.h: smaller is better, all distinct) are appended in order; when the buffer is full it is cut back to the
// best num_selected, in place and stably, and from then on only scores above the worst of those can enter. Nothing is
// ever dropped for lack of room. Because later candidates have larger tiebreaks, "above" may be strict.
#pragma once

#include <algorithm>
#include <cstdint>

#include "similarity_kernels.h"

namespace bse {

class TopKBuffer {
 public:
  // Room for a buffer that is cut back often enough to stay cheap and seldom enough to be worth it.
  static int64_t capacity(int64_t num_selected, int64_t num_candidates, int panel_width) {
    return std::min(num_candidates, 2 * num_selected + 64) + panel_width;
  }

  TopKBuffer(uint64_t* ranks, int64_t capacity, int64_t num_selected)
      : ranks_(ranks), capacity_(capacity), num_selected_(num_selected) {}

  // scores: [count]; scratch: [capacity]
  void add(const SimilarityKernels& kernels, const float* scores, int64_t count, uint32_t first_tiebreak,
           uint64_t* scratch) {
    if (num_ranks_ == 0 && !bounded_ && count > num_selected_) {
      float guess;
      if (kernels.guess_threshold(scores, count, num_selected_, &guess)) {
        bounded_ = true;
        threshold_ = guess;
        collect(kernels, scores, count, first_tiebreak, scratch);
        // With num_selected scores above the guess, all that is not above it is out for good.
        if (num_ranks_ >= num_selected_) return;
        bounded_ = false;
        num_ranks_ = 0;
      }
    }
    collect(kernels, scores, count, first_tiebreak, scratch);
  }

  // Cuts to the best num_selected, then drops the best num_skipped of those. Ranks stay in the order they came in.
  int64_t finish(int64_t num_skipped, uint64_t* scratch) {
    cut(num_selected_, scratch);
    const int64_t skipped = std::min(num_skipped, num_ranks_);
    if (skipped > 0) {
      std::copy(ranks_, ranks_ + num_ranks_, scratch);
      std::nth_element(scratch, scratch + (skipped - 1), scratch + num_ranks_);
      const uint64_t last_skipped = scratch[skipped - 1];
      num_ranks_ = std::remove_if(ranks_, ranks_ + num_ranks_, [=](uint64_t r) { return r <= last_skipped; }) - ranks_;
    }
    return num_ranks_;
  }

  const uint64_t* ranks() const { return ranks_; }

 private:
  void collect(const SimilarityKernels& kernels, const float* scores, int64_t count, uint32_t first_tiebreak,
               uint64_t* scratch) {
    for (int64_t done = 0; done < count;) {
      done += kernels.collect(scores + done, count - done, first_tiebreak + static_cast<uint32_t>(done), bounded_,
                              threshold_, ranks_, &num_ranks_, capacity_);
      if (num_ranks_ + kernels.panel_width > capacity_) cut(num_selected_, scratch);
    }
  }

  void cut(int64_t size, uint64_t* scratch) {
    if (num_ranks_ < size) return;
    std::copy(ranks_, ranks_ + num_ranks_, scratch);
    std::nth_element(scratch, scratch + (size - 1), scratch + num_ranks_);
    const uint64_t worst_kept = scratch[size - 1];
    num_ranks_ = std::remove_if(ranks_, ranks_ + num_ranks_, [=](uint64_t r) { return r > worst_kept; }) - ranks_;
    bounded_ = true;
    threshold_ = rank_score(worst_kept);
  }

  uint64_t* ranks_;
  int64_t capacity_, num_selected_;
  int64_t num_ranks_ = 0;
  bool bounded_ = false;
  float threshold_ = 0.0f;
};

}  // namespace bse

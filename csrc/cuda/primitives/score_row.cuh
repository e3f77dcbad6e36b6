// One row of scores that the threads of a block select from, strip by strip, with kItems columns per thread and strip.
//
// Item i of thread t in the strip that begins at `first` is column first + i * kThreads + t. A row of one strip is held
// in registers (kIsHeld) and read once. Longer rows are read from memory in each pass.
#pragma once

#include "common/score.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr int kSelectThreads = 128;

template <int kItems_, bool kIsHeld, int kThreads_ = kSelectThreads>
class ScoreRow {
 public:
  static constexpr int kItems = kItems_, kThreads = kThreads_;
  static constexpr int kStrip = kItems * kThreads;

  BSE_DEVICE ScoreRow(float* scores, int64_t num_columns) : scores_(scores), num_columns_(num_columns) {
    if constexpr (kIsHeld) load(0);
  }

  // Calls visit(first, scores[kItems]) for each strip in order, in all threads. Columns past the end have no rank. Set
  // kChanges if visit changes scores, so that they are written back.
  template <bool kChanges = false, class Visit>
  BSE_DEVICE void for_each_strip(const Visit& visit) {
    if constexpr (kIsHeld) {
      visit(int64_t{0}, items_);
    } else {
      for (int64_t first = 0; first < num_columns_; first += kStrip) {
        load(first);
        visit(first, items_);
        if constexpr (kChanges) store(first);
      }
    }
  }

  // Calls visit(column, score) for this thread's columns in ascending order.
  template <bool kChanges = false, class Visit>
  BSE_DEVICE void for_each(const Visit& visit) {
    for_each_strip<kChanges>([&](int64_t first, float (&items)[kItems]) {
      BSE_UNROLL
      for (int i = 0; i < kItems; ++i) visit(column(first, i), items[i]);
    });
  }

  BSE_DEVICE static int64_t column(int64_t first, int item) { return first + item * kThreads + threadIdx.x; }
  BSE_DEVICE int64_t num_columns() const { return num_columns_; }

  BSE_DEVICE static float excluded() { return __uint_as_float(0x7FC00000u); }
  BSE_DEVICE static bool has_rank(float score) { return score == score; }
  BSE_DEVICE static uint32_t sort_key(float score) { return ~ordered_bits(score); }  // a smaller key is better

 private:
  BSE_DEVICE void load(int64_t first) {
    BSE_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const int64_t c = column(first, i);
      items_[i] = c < num_columns_ ? scores_[c] : excluded();
    }
  }

  BSE_DEVICE void store(int64_t first) {
    BSE_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const int64_t c = column(first, i);
      if (c < num_columns_) scores_[c] = items_[i];
    }
  }

  float* scores_;
  int64_t num_columns_;
  float items_[kItems];
};

}  // namespace bse::cuda

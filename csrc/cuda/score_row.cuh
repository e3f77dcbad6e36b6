// One row of the slab, as the threads of a block select from it.
//
// Column c belongs to thread c mod kSelectThreads. A row of up to kItems * kSelectThreads columns is held in registers
// (one read of the slab); with kItems = 0 it stays where it is and is read in each pass.
#pragma once

#include "../common/score.h"
#include "device.h"

namespace bse::cuda {

constexpr int kSelectThreads = 128;

template <int kItems>
class ScoreRow {
 public:
  BSE_DEVICE ScoreRow(float* scores, int64_t num_columns) : slab_(scores), num_columns_(num_columns) {
    if constexpr (kItems > 0) {
      BSE_UNROLL
      for (int i = 0; i < kItems; ++i) {
        const int64_t c = i * kSelectThreads + threadIdx.x;
        held_[i] = c < num_columns ? scores[c] : nobody();
      }
    }
  }

  // Calls visit(column, score) for this thread's columns in ascending order, all threads in step; columns past the end
  // have no rank. The score may be changed.
  template <class Visit>
  BSE_DEVICE void for_each(const Visit& visit) {
    if constexpr (kItems > 0) {
      BSE_UNROLL
      for (int i = 0; i < kItems; ++i) visit(int64_t{i} * kSelectThreads + threadIdx.x, held_[i]);
    } else {
      for (int64_t first = 0; first < num_columns_; first += kSelectThreads) {
        const int64_t c = first + threadIdx.x;
        float nothing = nobody();
        visit(c, c < num_columns_ ? slab_[c] : nothing);
      }
    }
  }

  BSE_DEVICE int64_t num_columns() const { return num_columns_; }

  BSE_DEVICE static float nobody() { return __uint_as_float(0x7FC00000u); }
  BSE_DEVICE static bool has_rank(float score) { return score == score; }
  BSE_DEVICE static uint32_t key(float score) { return ~ordered_bits(score); }  // smaller: better

 private:
  float* slab_;
  int64_t num_columns_;
  float held_[kItems > 0 ? kItems : 1];
};

}  // namespace bse::cuda

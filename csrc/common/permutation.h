// A keyed pseudo-random permutation of 0..n-1. Each element is evaluated by itself, in integers only.
//
// It is a generalized Feistel network (Black, Rogaway 2002) on a grid of height * width >= n cells. Rounds alternately
// shift the row index by a hash of the column index and the column by a hash of the row. A result outside [0, n) is
// mapped again until it falls inside (cycle walking); fewer than one cell in sqrt(n) is outside. The permutation orders
// rows, roots and random fills. Candidate draws, whose distribution must be exact, use draw.h instead.
#pragma once

#include <cstdint>

#include "common/hash.h"
#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

// Returns ceil(sqrt(n)) for 1 <= n < 2^31.
BSE_HOST_DEVICE inline uint32_t ceil_sqrt(uint32_t n) {
  uint32_t root = 0;  // largest root with root^2 < n
  for (uint32_t bit = 1u << 15; bit != 0; bit >>= 1) {
    const uint32_t trial = root | bit;
    if (trial * trial < n) root = trial;
  }
  return root + 1;
}

// Requires 1 <= n < 2^31 and positions in [0, n).
class KeyedPermutation {
 public:
  BSE_HOST_DEVICE KeyedPermutation(uint32_t n, uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t major) : n_(n) {
    WordStream words(seed, purpose, epoch, major, 0);
    for (uint32_t& key : round_key_) key = words.next();
    height_ = ceil_sqrt(n);
    width_ = (n + height_ - 1) / height_;
  }

  BSE_HOST_DEVICE uint32_t operator()(uint32_t position) const {
    uint32_t value = position;
    do {
      uint32_t row = value / width_, column = value % width_;
      for (int round = 0; round < kNumRounds; round += 2) {
        row = shifted(row, column, round_key_[round], height_);
        column = shifted(column, row, round_key_[round + 1], width_);
      }
      value = row * width_ + column;
    } while (value >= n_);
    return value;
  }

  // Writes the values at positions [first, first + count) to out. Several positions at a time take a third of the time.
  template <class Out>
  void write(uint32_t first, int64_t count, Out* out) const {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      uint32_t row[kLanes], column[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t position = first + static_cast<uint32_t>(i + lane);
        row[lane] = position / width_;
        column[lane] = position % width_;
      }
      for (int round = 0; round < kNumRounds; round += 2) {
        for (int lane = 0; lane < kLanes; ++lane) {
          row[lane] = shifted(row[lane], column[lane], round_key_[round], height_);
        }
        for (int lane = 0; lane < kLanes; ++lane) {
          column[lane] = shifted(column[lane], row[lane], round_key_[round + 1], width_);
        }
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t value = row[lane] * width_ + column[lane];
        out[i + lane] = static_cast<Out>(value < n_ ? value : (*this)(value));
      }
    }
    for (; i < count; ++i) out[i] = static_cast<Out>((*this)(first + static_cast<uint32_t>(i)));
  }

 private:
  static constexpr int kNumRounds = 12, kLanes = 16;

  // One round: shifts an index below size by a hash of the other index.
  BSE_HOST_DEVICE static uint32_t shifted(uint32_t index, uint32_t other, uint32_t key, uint32_t size) {
    index += mulhi(mix32(other ^ key), size);
    return index >= size ? index - size : index;
  }

  uint32_t n_;
  uint32_t height_, width_;
  uint32_t round_key_[kNumRounds];
};

}  // namespace bse

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
        row += mulhi(mix32(column ^ round_key_[round]), height_);
        if (row >= height_) row -= height_;
        column += mulhi(mix32(row ^ round_key_[round + 1]), width_);
        if (column >= width_) column -= width_;
      }
      value = row * width_ + column;
    } while (value >= n_);
    return value;
  }

 private:
  static constexpr int kNumRounds = 12;
  uint32_t n_;
  uint32_t height_, width_;
  uint32_t round_key_[kNumRounds];
};

}  // namespace bse

// The same words as a WordStream (csrc/common/random_stream.h), computed many Philox blocks at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/random_stream.h"
#include "cpu/simd/dispatch.h"

namespace bse {

class BufferedWordStream {
  static constexpr int kNumBlocks = 64;

 public:
  static constexpr int kNumWords = 4 * kNumBlocks;

  BufferedWordStream(uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t major, uint32_t minor)
      : kernels_(kernel_table()), seed_(seed), tag_(stream_tag(purpose, epoch)), major_(major), minor_(minor) {}

  uint32_t next() {
    if (position_ == end_) refill(kNumWords);
    return words_[position_++];
  }

  // Returns the next words without consuming them: *count, or fewer if fewer are buffered, but at least one.
  const uint32_t* peek(int* count) {
    if (position_ == end_) refill(*count);
    *count = std::min(*count, end_ - position_);
    return words_ + position_;
  }
  // Consumes words returned by peek(). They stay valid until the next call.
  void skip(int count) { position_ += count; }

  uint32_t next_below(uint32_t n) { return uniform_below(*this, n); }

 private:
  struct Offsets {
    BlockOffset blocks[kNumBlocks] = {};
    constexpr Offsets() {
      for (uint32_t b = 0; b < kNumBlocks; ++b) blocks[b] = {0, b};
    }
  };

  // Computes at least num_words words, but at most kNumWords.
  void refill(int num_words) {
    static constexpr Offsets kOffsets;
    const int num_blocks = std::min(kNumBlocks, (num_words + 31) / 32 * 8);
    kernels_.philox_blocks(seed_, tag_, major_, minor_, next_block_, kOffsets.blocks, num_blocks, words_);
    next_block_ += static_cast<uint32_t>(num_blocks);
    end_ = 4 * num_blocks;
    position_ = 0;
  }

  const KernelTable& kernels_;
  uint64_t seed_;
  uint32_t tag_, major_, minor_;
  uint32_t next_block_ = 0;
  int position_ = 0, end_ = 0;
  uint32_t words_[kNumWords];
};

}  // namespace bse

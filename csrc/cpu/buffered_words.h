// The words of a WordStream (csrc/common/random_stream.h), many blocks at a time.
#pragma once

#include <cstdint>

#include "../common/random_stream.h"
#include "isa.h"

namespace bse {

class BufferedWordStream {
 public:
  BufferedWordStream(uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t major, uint32_t minor)
      : kernels_(similarity_kernels()), seed_(seed), tag_(stream_tag(purpose, epoch)), major_(major), minor_(minor) {}

  uint32_t next() {
    if (position_ == kNumWords) {
      kernels_.philox_words(seed_, tag_, major_, minor_, next_block_, kNumBlocks, words_);
      next_block_ += kNumBlocks;
      position_ = 0;
    }
    return words_[position_++];
  }

  uint32_t next_below(uint32_t n) { return uniform_below(*this, n); }

 private:
  static constexpr int kNumBlocks = 64, kNumWords = 4 * kNumBlocks;

  const SimilarityKernels& kernels_;
  uint64_t seed_;
  uint32_t tag_, major_, minor_;
  uint32_t next_block_ = 0;
  int position_ = kNumWords;
  uint32_t words_[kNumWords];
};

}  // namespace bse

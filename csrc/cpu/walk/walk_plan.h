// The random decisions of a walk, in the order in which it uses them. They do not depend on the graph, so they are
// computed ahead of the walk.
//
// The words of a segment are a function of its number (csrc/common/walk.h). Many Philox blocks are computed at once,
// for consecutive segments. Each segment gets as many blocks as most segments need.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/walk.h"
#include "cpu/simd/dispatch.h"

namespace bse {

// A step of a walk, and the segments that end before it.
struct PlannedStep {
  bool is_step;  // false: segments end, but no step follows yet
  uint32_t neighbor_word;
  uint32_t num_ends;      // segments that end, by a restart or at max_segment_steps
  uint32_t num_restarts;  // segments that end by a restart
};

// Philox blocks that are computed together: 2^log_blocks of each of the next segments, for every log_blocks.
struct PlannedBlocks {
  static constexpr int kNum = 16, kLogMostOfSegment = 3, kMaxOfSegment = 1 << kLogMostOfSegment;
  BlockOffset offsets[kLogMostOfSegment + 1][kNum] = {};  // indexed by log_blocks

  constexpr PlannedBlocks() {
    for (int log_blocks = 0; log_blocks <= kLogMostOfSegment; ++log_blocks) {
      for (uint32_t b = 0; b < kNum; ++b) offsets[log_blocks][b] = {b >> log_blocks, b & ((1u << log_blocks) - 1)};
    }
  }
};

class WalkPlan {
 public:
  WalkPlan(uint64_t seed, uint32_t epoch, uint32_t restart_threshold, const WalkLimits& limits)
      : kernels_(kernel_table()),
        seed_(seed),
        tag_(stream_tag(Purpose::kWalk, epoch)),
        threshold_(restart_threshold),
        limits_(limits),
        log_blocks_(likely_log_blocks(restart_threshold)) {}

  // Starts a plan at the first step of a segment.
  void begin(uint32_t walk, uint32_t segment) {
    walk_ = walk;
    segment_ = segment;
    block_ = 0;
    position_ = size_ = 0;
    num_ends_[0] = num_restarts_[0] = 0;
  }

  PlannedStep next() {
    if (position_ == size_) refill();
    const bool is_step = position_ < size_;
    const PlannedStep step{is_step, neighbor_words_[position_], num_ends_[position_], num_restarts_[position_]};
    num_ends_[position_] = num_restarts_[position_] = 0;
    position_ += is_step;
    return step;
  }

 private:
  static constexpr PlannedBlocks kBlocks{};
  static constexpr int kNumBlocks = PlannedBlocks::kNum, kLogMostBlocks = PlannedBlocks::kLogMostOfSegment;
  static constexpr int kMaxSteps = 2 * PlannedBlocks::kMaxOfSegment;  // steps that are added at a time
  static constexpr int kCapacity = 4 * kNumBlocks;                    // steps that are held

  // Returns the logarithm of a number of blocks that is enough for most segments. A block serves two steps.
  static int likely_log_blocks(uint32_t threshold) {
    int log_blocks = 0;
    while (log_blocks < kLogMostBlocks && uint64_t{threshold} << (log_blocks + 2) < uint64_t{3} << 32) ++log_blocks;
    return log_blocks;
  }

  // Plans as many of the next steps as there is room for. Plans none if all of the next segments end at once.
  void refill() {
    num_ends_[0] = num_ends_[size_];
    num_restarts_[0] = num_restarts_[size_];
    std::fill(num_ends_ + 1, num_ends_ + kCapacity + 1, uint8_t{0});
    std::fill(num_restarts_ + 1, num_restarts_ + kCapacity + 1, uint8_t{0});
    position_ = size_ = 0;
    if (block_ > 0 && !go_on()) return;
    uint32_t words[4 * kNumBlocks];
    kernels_.philox_blocks(seed_, tag_, walk_, segment_, 0, kBlocks.offsets[log_blocks_], kNumBlocks, words);
    switch (log_blocks_) {
      case 0:
        return add_segments<2>(words);
      case 1:
        return add_segments<4>(words);
      case 2:
        return add_segments<8>(words);
      default:
        return add_segments<16>(words);
    }
  }

  template <int kNumSteps>
  void add_segments(const uint32_t* words) {
    for (int first = 0; first < 2 * kNumBlocks && has_room(); first += kNumSteps) {
      if (!add_segment<kNumSteps>(words + 2 * first) && !go_on()) return;
    }
  }

  bool has_room() const { return size_ + kMaxSteps <= kCapacity; }

  // Adds the rest of the current segment. Returns false if there is no room for all of it.
  bool go_on() {
    constexpr int kNum = PlannedBlocks::kMaxOfSegment;
    uint32_t words[4 * kNum];
    while (has_room()) {
      kernels_.philox_blocks(seed_, tag_, walk_, segment_, block_, kBlocks.offsets[kLogMostBlocks], kNum, words);
      if (add_segment<2 * kNum>(words)) return true;
    }
    return false;
  }

  // Adds the next steps of the current segment, without branches on where it ends. Returns false if it continues beyond
  // them.
  template <int kNumSteps>
  bool add_segment(const uint32_t* words) {
    uint32_t restarts = 1u << kNumSteps;
#pragma GCC unroll 16
    for (int i = 0; i < kNumSteps; ++i) {
      restarts |= static_cast<uint32_t>(words[2 * i] < threshold_) << i;
      neighbor_words_[size_ + i] = words[2 * i + 1];
    }
    const auto num_left = static_cast<int>(limits_.max_segment_steps - 2 * block_);
    int length = __builtin_ctz(restarts);
    const bool is_restart = length < std::min(kNumSteps, num_left);
    length = std::min(length, num_left);
    const bool is_over = is_restart || length == num_left;
    size_ += length;
    num_ends_[size_] += is_over;
    num_restarts_[size_] += is_restart;
    segment_ += is_over;
    block_ = is_over ? 0 : block_ + kNumSteps / 2;
    return is_over;
  }

  const KernelTable& kernels_;
  const uint64_t seed_;
  const uint32_t tag_, threshold_;
  const WalkLimits limits_;
  const int log_blocks_;

  uint32_t walk_ = 0, segment_ = 0, block_ = 0;  // the next to plan
  int position_ = 0, size_ = 0;
  uint32_t neighbor_words_[kCapacity + 1];  // of the planned steps
  uint8_t num_ends_[kCapacity + 1];         // before each step, and after the last
  uint8_t num_restarts_[kCapacity + 1];
};

}  // namespace bse

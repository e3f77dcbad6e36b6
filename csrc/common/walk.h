// Definition of the random walk with restart that collects a batch. Engines schedule it in different ways, but all have
// this result.
//
// A walk consists of segments that start at the current root. Each step draws a restart word, which ends the segment if
// it is below floor(alpha * 2^32) for restart probability alpha. Then it draws a neighbor word, which picks neighbor
// mulhi(word, degree). A segment also ends at a row without neighbors and after max_segment_steps. Segment s of walk w
// is a pure function of (seed, epoch, w, root, s).
// The batch is the root and then the first distinct rows in the order (segment, step). After max_unproductive_segments
// segments in a row that add no row, a random row becomes the root (reroot). After max_segments segments in all, random
// fills from a keyed permutation of all rows complete the batch.
//
// Source: Yang et al., "BatchSampler: Sampling Mini-Batches for Contrastive Learning in Vision, Language, and Graphs",
// KDD 2023, section 4.2. Segments and their limits are not in the paper.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

struct WalkLimits {
  uint32_t max_segment_steps;
  uint32_t max_unproductive_segments;
  uint32_t max_segments;
};

// Returns the limits of a walk. A segment has 2^32 / restart_threshold - 1 steps on average; its inverse is the number
// of segments per step.
//   max_segment_steps          max(batch_size, 64)
//   max_unproductive_segments  segments of about 256 steps in all, within [4, 4096]. If so many in a row add no row,
//                              the root's neighborhood counts as exhausted.
//   max_segments               8 (batch_size * s + max_unproductive_segments), where s is 1 + the segments per step,
//                              rounded down, at most 4096
BSE_HOST_DEVICE inline WalkLimits walk_limits(uint32_t batch_size, uint32_t restart_threshold) {
  const uint64_t steps_weight = (uint64_t{1} << 32) - restart_threshold;
  uint64_t unproductive = uint64_t{256} * restart_threshold / steps_weight + 1;
  if (unproductive < 4) unproductive = 4;
  if (unproductive > 4096) unproductive = 4096;
  uint64_t segments_per_step = 1 + restart_threshold / steps_weight;
  if (segments_per_step > 4096) segments_per_step = 4096;
  uint64_t segments = 8 * (batch_size * segments_per_step + unproductive);
  if (segments > 0xFFFFFFFFu) segments = 0xFFFFFFFFu;
  return {batch_size > 64 ? batch_size : 64, static_cast<uint32_t>(unproductive), static_cast<uint32_t>(segments)};
}

// The random words of the steps of one segment. One Philox block serves two steps.
class SegmentWords {
 public:
  BSE_HOST_DEVICE SegmentWords(uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t walk, uint32_t segment)
      : seed_(seed), tag_(stream_tag(purpose, epoch)), walk_(walk), segment_(segment) {}

  // Loads the words of a step. Must be called with step = 0, 1, 2, ... in order.
  BSE_HOST_DEVICE void load(uint32_t step) {
    if ((step & 1) == 0) block_ = philox4x32(seed_, tag_, walk_, segment_, step >> 1);
    offset_ = 2 * (step & 1);
  }
  BSE_HOST_DEVICE uint32_t restart_word() const { return block_.word[offset_]; }
  BSE_HOST_DEVICE uint32_t neighbor_word() const { return block_.word[offset_ + 1]; }

 private:
  uint64_t seed_;
  uint32_t tag_, walk_, segment_;
  uint32_t offset_ = 0;
  PhiloxBlock block_{};
};

}  // namespace bse

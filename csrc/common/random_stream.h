// Named streams of Philox words, one for each random decision, and unbiased integers from them.
//
// A stream has the seed as its key, and the counters (purpose << 24 | epoch, major, minor, block). `major` is a walk,
// group, batch or stage; `minor` is a segment, stage or round. Two decisions never share a counter, on any thread or
// device.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/philox.h"

namespace bse {

enum class Purpose : uint32_t {
  kCandidates = 1,     // candidate draw of a group of rows                       (major = group)
  kGroups = 2,         // permutation that forms the groups
  kWalk = 3,           // steps of a walk                                         (walk, segment)
  kReroot = 4,         // new root of a walk in an exhausted neighborhood         (walk, segment)
  kFill = 5,           // permutation for the random fills of a batch             (walk)
  kRoots = 6,          // root of an independent walk                             (walk)
  kRootOrder = 7,      // permutation of roots: partition, cover_by_walks, uniform batches
  kPartitionWalk = 8,  // seed walks of a partition                               (batch, stage)
  kPartitionHash = 9,  // keys of a partition's hashes                            (stage, index of the hash)
};

constexpr uint32_t kEpochLimit = 1u << 24;

BSE_HOST_DEVICE inline uint32_t stream_tag(Purpose purpose, uint32_t epoch) {
  return static_cast<uint32_t>(purpose) << 24 | epoch;
}

// Returns the high 32 bits of word * n, which maps a word to [0, n).
BSE_HOST_DEVICE inline uint32_t mulhi(uint32_t word, uint32_t n) {
  return static_cast<uint32_t>(uint64_t{word} * n >> 32);
}

// Returns an exactly uniform integer in [0, n), n >= 1. Words that would make some values likelier are skipped (Lemire,
// "Fast random integer generation in an interval", 2019).
template <class Words>
BSE_HOST_DEVICE inline uint32_t uniform_below(Words& words, uint32_t n) {
  uint64_t product = uint64_t{words.next()} * n;
  if (static_cast<uint32_t>(product) < n) {
    const uint32_t num_surplus = (0u - n) % n;  // 2^32 mod n
    while (static_cast<uint32_t>(product) < num_surplus) product = uint64_t{words.next()} * n;
  }
  return static_cast<uint32_t>(product >> 32);
}

// The words w_0, w_1, ... of one stream.
class WordStream {
 public:
  BSE_HOST_DEVICE WordStream(uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t major, uint32_t minor)
      : seed_(seed), tag_(stream_tag(purpose, epoch)), major_(major), minor_(minor) {}

  BSE_HOST_DEVICE uint32_t next() {
    if ((position_ & 3) == 0) block_ = philox4x32(seed_, tag_, major_, minor_, position_ >> 2);
    return block_.word[position_++ & 3];
  }

  BSE_HOST_DEVICE uint32_t next_below(uint32_t n) { return uniform_below(*this, n); }

 private:
  uint64_t seed_;
  uint32_t tag_, major_, minor_;
  uint32_t position_ = 0;
  PhiloxBlock block_{};
};

}  // namespace bse

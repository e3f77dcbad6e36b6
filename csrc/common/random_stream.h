// Which random words belong to which decision: named streams of Philox words, and unbiased integers from them.
//
// counter = (purpose << 24 | epoch, major, minor, block), key = seed. `major` is a walk, group or batch, `minor` a
// segment or round. Two decisions never share a counter, whatever thread or device takes them.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/philox.h"

namespace bse {

enum class Purpose : uint32_t {
  kCandidates = 1,     // candidate draw of a group of rows           (major = group)
  kGroups = 2,         // permutation that forms the groups
  kWalk = 3,           // steps of a walk                             (walk, segment)
  kReroot = 4,         // new root of a stuck walk                    (walk, segment)
  kFill = 5,           // permutation that random_fills an unfinished batch  (walk)
  kRoots = 6,          // root of an independent walk                 (walk)
  kRootOrder = 7,      // permutation of roots: partition, paper mode, uniform batches
  kPartitionWalk = 8,  // seed walks of a partition                   (batch, stage)
  kPartitionHash = 9,  // keys of the partition's hashes              (stage, round)
};

constexpr uint32_t kEpochLimit = 1u << 24;

BSE_HOST_DEVICE inline uint32_t stream_tag(Purpose purpose, uint32_t epoch) {
  return static_cast<uint32_t>(purpose) << 24 | epoch;
}

// High 32 bits of a 32 x 32 bit product: maps a word to [0, n).
BSE_HOST_DEVICE inline uint32_t mulhi(uint32_t word, uint32_t n) {
  return static_cast<uint32_t>(uint64_t{word} * n >> 32);
}

// Exactly uniform in [0, n), n >= 1: words that would make some values likelier are skipped (Lemire 2019).
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

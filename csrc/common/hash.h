// Keyed integer hashes, for random decisions that are so many that a Philox block for each would be slow.
//
// mix32 is C. Wellons' "lowbias32" (hash-prospector, public domain). mix64 is the finalizer of SplitMix64 (Steele, Lea,
// Flood 2014). Keys come from Philox (random_stream.h), so hashes of different seeds, epochs and rounds are unrelated.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

template <class Word>
BSE_HOST_DEVICE inline Word mix(Word x, int shift0, Word factor0, int shift1, Word factor1, int shift2) {
  x = (x ^ x >> shift0) * factor0;
  x = (x ^ x >> shift1) * factor1;
  return x ^ x >> shift2;
}

BSE_HOST_DEVICE inline uint32_t mix32(uint32_t x) { return mix(x, 16, 0x7FEB352Du, 15, 0x846CA68Bu, 16); }

BSE_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
  return mix(x, 30, uint64_t{0xBF58476D1CE4E5B9}, 27, uint64_t{0x94D049BB133111EB}, 31);
}

BSE_HOST_DEVICE inline uint64_t keyed_hash(uint64_t key, uint64_t value) {
  return mix64(key + value * 0x9E3779B97F4A7C15ull);
}

BSE_HOST_DEVICE inline uint64_t hash_key(uint64_t seed, Purpose purpose, uint32_t epoch, uint32_t major,
                                         uint32_t minor) {
  const PhiloxBlock block = philox4x32(seed, stream_tag(purpose, epoch), major, minor, 0);
  return uint64_t{block.word[1]} << 32 | block.word[0];
}

}  // namespace bse

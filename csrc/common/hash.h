// Keyed integer hashes, for decisions that are too many for a Philox block each.
//
// mix32 is C. Wellons' "lowbias32" (hash-prospector, public domain). mix64 is the finalizer of SplitMix64 (Steele, Lea,
// Flood 2014). Keys come from Philox (random_stream.h), so hashes of different seeds, epochs and rounds are unrelated.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

BSE_HOST_DEVICE inline uint32_t mix32(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  x ^= x >> 16;
  return x;
}

BSE_HOST_DEVICE inline uint64_t mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  x ^= x >> 31;
  return x;
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

// SplitMix64 (Steele, Lea, Flood 2014), for schedules and for garbage in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::emulator {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
  }

  // In [0, bound), bound < 2^32.
  size_t below(size_t bound) { return static_cast<size_t>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

}  // namespace
}  // namespace bse::emulator

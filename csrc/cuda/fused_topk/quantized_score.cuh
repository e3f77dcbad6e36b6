// Screened cosines as integers of 15 bits, so that a row of a thousand fits into two kilobytes of shared memory, two of
// them are compared at once, and a threshold among them is found by counting.
//
//   key = 16384 + round(16000 cosine)      0: nobody (forbidden, the row itself, past the end)
//
// What that costs: with e the error of a screened cosine (csrc/common/prefilter_bound.h), a key is within
//   E = 16000 e + 1/2 + 0.01
// of 16384 + 16000 s, s the defined score. 1/2 is the rounding to an integer, by one fused multiply-add onto a number
// whose last bit is worth 1. 0.01 has room for what differs from the arithmetic of prefilter_bound.h: 16000 / |a| and
// its product with 1 / |b| are rounded, each by a relative 2^-24, and so is a product there that is exact here; of a
// cosine of at most 1 + e that is 16000 * 2^-22 < 0.004. So of two candidates whose keys differ by more than 2 E, the
// one with the greater key has the greater defined score. Cosines are at most 1 + e in magnitude, and e < 0.02 up to
// kMostScreenedDimensions: keys of candidates are in [64, 32704].
//
// A key is kept in half a word, with its highest bit set: subtracting a threshold from both halves at once then leaves
// that bit where the key is not below it, and no half borrows from the other.
#pragma once

#include "common/prefilter_bound.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr float kKeyScale = 16000.0f;
constexpr uint32_t kKeyEnd = 1u << 15;  // no key reaches it
constexpr uint32_t kKeyFlag = 1u << 15;
constexpr uint32_t kNobodies = kKeyFlag << 16 | kKeyFlag;  // two of them, a word

// 2 E: candidates whose keys differ by more are in the order of their defined scores.
inline uint32_t key_window(int64_t dim) {
  return static_cast<uint32_t>(2.0 * (double{kKeyScale} * tensor_core_screening_error(dim) + 0.51));
}

// The key, with its flag, in the low half of the word. scaled_term: kKeyScale times the query's term
BSE_DEVICE uint32_t flagged_key(float dot, float scaled_term, float base_term) {
  // 1.5 * 2^23 makes the last bit worth 1, and has no bits of its own in the low half.
  constexpr float kOrigin = 12582912.0f + 32768.0f + 16384.0f;
  return __float_as_uint(fmaf(dot, scaled_term * base_term, kOrigin)) & 0xFFFFu;
}

}  // namespace bse::cuda

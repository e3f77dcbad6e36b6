// Approximate cosines as integers of 15 bits, so that a row of a thousand fits into two kilobytes of shared memory, two
// of them are compared at once, and a threshold among them is found by counting.
//
//   score = 16384 + round(16000 cosine)      0: nobody (forbidden, the row itself, past the end)
//
// What that costs: with e the error of a approximate cosine (csrc/common/prefilter_bound.h), a score is within
//   E = 16000 e + 1/2 + 0.01
// of 16384 + 16000 s, s the defined score. 1/2 is the rounding to an integer, by one fused multiply-add onto a number
// whose last bit is worth 1. 0.01 has room for what differs from the arithmetic of prefilter_bound.h: 16000 / |a| and
// its product with 1 / |b| are rounded, each by a relative 2^-24, and so is a product there that is exact here; of a
// cosine of at most 1 + e that is 16000 * 2^-22 < 0.004. So of two candidates whose quantized differ by more than 2 E,
// the one with the greater score has the greater defined score. Cosines are at most 1 + e in magnitude, and e < 0.02 up
// to kMaxPrefilterDim: quantized of candidates are in [64, 32704].
//
// A score is kept in half a word, with its highest bit set: subtracting a threshold from both halves at once then
// leaves that bit where the score is not below it, and no half borrows from the other.
#pragma once

#include "common/prefilter_bound.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr float kQuantizedScale = 16000.0f;
constexpr uint32_t kQuantizedEnd = 1u << 15;  // no score reaches it
constexpr uint32_t kQuantizedFlag = 1u << 15;
constexpr uint32_t kExcludedPair = kQuantizedFlag << 16 | kQuantizedFlag;  // two of them, a word

// 2 E: candidates whose quantized differ by more are in the order of their defined scores.
inline uint32_t quantized_window(int64_t dim) {
  return static_cast<uint32_t>(2.0 * (double{kQuantizedScale} * tensor_core_prefilter_error(dim) + 0.51));
}

// The score, with its flag, in the low half of the word. scaled_norm: kQuantizedScale times the query's norm
BSE_DEVICE uint32_t quantize_score(float dot, float scaled_norm, float base_norm) {
  // 1.5 * 2^23 makes the last bit worth 1, and has no bits of its own in the low half.
  constexpr float kOrigin = 12582912.0f + 32768.0f + 16384.0f;
  return __float_as_uint(fmaf(dot, scaled_norm * base_norm, kOrigin)) & 0xFFFFu;
}

}  // namespace bse::cuda

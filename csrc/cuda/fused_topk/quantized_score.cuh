// Quantized scores: cosines as integers of 15 bits. A row of a thousand fits into 2 KB of shared memory, two scores are
// compared at once, and a threshold is found by counting.
//
//   score = 16384 + round(16000 cosine)      0: excluded (equal labels, the row itself, past the last column)
//
// Let e bound the error of an approximate cosine (csrc/common/prefilter_bound.h) and s be the exact score. A quantized
// score is within
//   E = 16000 e + 1/2 + 0.01
// of 16384 + 16000 s. If the quantized scores of two candidates differ by more than 2 E, the exact scores are in the
// same order. The 1/2 is the rounding to an integer, by one fused multiply-add onto a number whose last bit is worth 1.
// The 0.01 covers the differences from the arithmetic in prefilter_bound.h. There, exact and approximate cosines have
// the same rounded factor 1 / (|a| |b|). Here, 16000 / |a| is rounded, and then its product with 1 / |b|. These three
// roundings are by a relative 2^-24 each. The product of this factor and the dot product is not rounded, because the
// addition is fused. Cosines are at most 1 + e in magnitude, and e < 0.02 up to kMaxPrefilterDim. So the differences
// add up to at most 16000 * 2^-22 < 0.004, and the scores of candidates are in [64, 32704].
//
// A score takes half a word, whose highest bit is not part of it.
#pragma once

#include "common/prefilter_bound.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr float kQuantizedScale = 16000.0f;
constexpr int kQuantizedBits = 15;
constexpr uint32_t kMaxQuantized = (1u << kQuantizedBits) - 1;  // above every score
// Added to a scaled cosine, these leave its score, or an excluded one if the cosine is 0, in the low bits of the sum:
// 1.5 * 2^23 makes the last bit worth 1, and has no bits of its own in the low half.
constexpr float kExcludedOrigin = 12582912.0f, kQuantizedOrigin = kExcludedOrigin + 16384.0f;

// Returns 2 E: if quantized scores differ by more, exact scores are in the same order.
inline uint32_t quantized_window(int64_t dim) {
  return static_cast<uint32_t>(2.0 * (double{kQuantizedScale} * tensor_core_prefilter_error(dim) + 0.51));
}

// Returns the score in the low half of the word; the high half has other bits. factor: kQuantizedScale times the norms
// of the query and of the candidate.
BSE_DEVICE uint32_t quantized_bits(float dot, float factor, float origin) {
  return __float_as_uint(fmaf(dot, factor, origin));
}

}  // namespace bse::cuda

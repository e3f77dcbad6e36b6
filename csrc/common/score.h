// The exact score: the definition of a similarity score down to its rounding, and the total order of selection.
//
//   acc    = +0, then for k ascending acc = fma(a[k], b[k], acc); for l2: t = a[k] - b[k], acc = fma(t, t, acc)
//   r      = 1 / sqrt(n), both correctly rounded; r = 0 for n = 0      n = the chain of products with b = a
//   cosine = acc * (r_i * r_j)      ip = acc      l2 = -acc       (-0 becomes +0)
//
// Every engine rounds to nearest, keeps subnormals and contracts nothing but the fma written here (-ffp-contract=off).
// Scores are symmetric in i and j. A NaN score is never selected.
//
// Errors, with u = 2^-24, gamma(n) = n u / (1 - n u), and D dimensions (Higham, Accuracy and Stability of Numerical
// Algorithms, sections 2.2 and 3.1). Each fma that rounds to a subnormal number or zero adds at most 2^-150.
//   l2      gamma(D + 2) |a - b|^2 + D 2^-150: relative to the squared distance itself, however far from the origin. A
//           distance beyond float32 is infinite. Then the score is -infinity, which ranks last and is never NaN.
//   ip      gamma(D) sum |a_k b_k| + D 2^-150. Sums beyond float32 become infinite. They are never NaN.
//   cosine  gamma(4 D + 8), absolute. Rows other than zeros need a squared norm that has_accurate_cosines() accepts.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace bse {

// Only cosine needs a number of each row, r, the reciprocal of its Euclidean norm. In code it is called the norm of the
// row. For other metrics it is 0. Only cosine has fast paths by approximate scores (prefilter_bound.h).
enum class Metric : int { kCosine = 0, kInnerProduct = 1, kL2 = 2 };
constexpr Metric kLastMetric = Metric::kL2;

// Returns whether cosines of rows with such squared norms have the error above: their products, r and r_i r_j neither
// overflow nor lose digits to underflow. Returns false for 0: the caller tells rows of zeros, whose cosines are 0.
BSE_HOST_DEVICE inline bool has_accurate_cosines(float squared_norm) {
  return squared_norm >= 0x1p-126f && squared_norm <= 0x1p126f;
}

// The error of other rows, after the name of the row.
constexpr char kNormExpected[] =
    "expected zeros or a Euclidean norm from 2**-63 to 2**63 (1.1e-19 to 9.2e+18) for metric 'cosine'";

// Returns the norm of a row, as explained at Metric. squared_norm: n
BSE_HOST_DEVICE inline float row_norm(Metric metric, float squared_norm) {
  if (metric == Metric::kCosine) return squared_norm == 0.0f ? 0.0f : 1.0f / sqrtf(squared_norm);
  return 0.0f;
}

// Adds one dimension to the chain of a pair.
template <bool kIsL2>
BSE_HOST_DEVICE inline float add_dimension(float acc, float a, float b) {
  if constexpr (kIsL2) {
    const float difference = a - b;
    return fmaf(difference, difference, acc);
  } else {
    return fmaf(a, b, acc);
  }
}

// Returns the score of a pair, which is exact if acc is. acc: its chain; norm_i, norm_j: row_norm() of its rows
BSE_HOST_DEVICE inline float finish_score(Metric metric, float acc, float norm_i, float norm_j) {
  if (metric == Metric::kCosine) acc *= norm_i * norm_j;
  if (metric == Metric::kL2) acc = -acc;
  return acc + 0.0f;  // -0 becomes +0
}

// Maps floats (no NaN, no -0) to unsigned integers in the same order.
BSE_HOST_DEVICE inline uint32_t ordered_bits(float score) {
  uint32_t bits;
  memcpy(&bits, &score, sizeof bits);
  return bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}

// Inverse of ordered_bits().
BSE_HOST_DEVICE inline float from_ordered_bits(uint32_t ordered) {
  const uint32_t bits = ordered ^ (ordered >> 31 ? 0x80000000u : 0xFFFFFFFFu);
  float score;
  memcpy(&score, &bits, sizeof score);
  return score;
}

// Returns the rank of a candidate as one integer. Ranks ascend with falling scores, then with rising tiebreaks. The
// tiebreak is the draw position in a proximity graph and the id in kNN.
BSE_HOST_DEVICE inline uint64_t candidate_rank(float score, uint32_t tiebreak) {
  return uint64_t{~ordered_bits(score)} << 32 | tiebreak;
}

BSE_HOST_DEVICE inline float rank_score(uint64_t rank) { return from_ordered_bits(~static_cast<uint32_t>(rank >> 32)); }

BSE_HOST_DEVICE inline uint32_t rank_tiebreak(uint64_t rank) { return static_cast<uint32_t>(rank); }

}  // namespace bse

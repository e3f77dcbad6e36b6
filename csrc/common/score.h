// The exact score: the definition of a similarity score down to its rounding, and the total order of selection.
//
//   acc    = +0, then acc = fma(a[k], b[k], acc) for k ascending      n = the same chain with b = a
//   r      = 1 / sqrt(n), both correctly rounded; r = 0 for n = 0
//   cosine = acc * (r_i * r_j)      ip = acc      l2 = -max(0, fma(-2, acc, n_i + n_j))       (-0 becomes +0)
//
// Every engine rounds to nearest, keeps subnormals and contracts nothing but the fma written here (-ffp-contract=off).
// Scores are symmetric in i and j. A NaN score is never selected.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace bse {

// Besides the dot product, a score needs one number of each row. It is called the norm of the row, whatever the metric:
//   cosine: r, the reciprocal of the Euclidean norm      l2: n, the squared Euclidean norm      ip: 0, as it needs none
// Only cosine has fast paths by approximate scores (prefilter_bound.h). For l2 and ip all scores are exact.
enum class Metric : int { kCosine = 0, kInnerProduct = 1, kL2 = 2 };
constexpr Metric kLastMetric = Metric::kL2;

// Returns the norm of a row, as explained at Metric. squared_norm: n
BSE_HOST_DEVICE inline float row_norm(Metric metric, float squared_norm) {
  if (metric == Metric::kCosine) return squared_norm == 0.0f ? 0.0f : 1.0f / sqrtf(squared_norm);
  return metric == Metric::kL2 ? squared_norm : 0.0f;
}

// Returns the score of a pair, which is exact if acc is. acc: its dot product; norm_i, norm_j: row_norm() of its rows
BSE_HOST_DEVICE inline float finish_score(Metric metric, float acc, float norm_i, float norm_j) {
  float score = acc;
  if (metric == Metric::kCosine) {
    score = acc * (norm_i * norm_j);
  } else if (metric == Metric::kL2) {
    const float distance = fmaf(-2.0f, acc, norm_i + norm_j);
    score = distance < 0.0f ? 0.0f : -distance;  // NaN stays NaN
  }
  return score + 0.0f;  // -0 becomes +0
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

// How far a dot product added in another order, or by bfloat16 instructions, may be from the defined score (score.h): a
// proven bound, so that it can find the candidates among which the best by defined scores must be.
//
// Products of two bfloat16 values are exact in float32, those of float32 are fused with an addition: only additions
// round. With u = 2^-24, d dimensions and gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical
// Algorithms, section 3.1), and because sum |a_k b_k| <= |a| |b|:
//   the defined chain is within gamma(d) |a| |b| of the exact sum; so is any other order of the same additions;
//   bfloat16 instructions differ between makers in the order and rounding of their additions. Whatever the order there
//   are d of them, and 2 u bounds every rounding in use, truncation too: within gamma(2 d) |a| |b|.
// A cosine multiplies either by the same 1 / (|a| |b|), itself rounded (the factor 1.02 has room for gamma(d) twice),
// and rounds once more, by at most u in either (2^-22 has room for both). Instructions that take subnormal numbers for
// zero add d 2^-126 (2 + |a| + |b|) before that: nothing (2^-50) where rows are neither tiny nor huge, which
// has_prefilter_bound() demands.
//
// Rows that are no bfloat16 values are approximate by others that are near: y' of y = a / |a|. Of two of them,
//   |y_i y_j - y'_i y'_j| <= |y_i - y'_i| |y_j| + |y'_i| |y_j - y'_j|,
// to which the dot product of the y' adds its own error.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace bse {

constexpr int64_t kMaxPrefilterDim = 8192;

// Of cosines, for dim <= kMaxPrefilterDim.
BSE_HOST_DEVICE inline double prefilter_error(int64_t dim) {
  const double unit = 0x1p-24, n = static_cast<double>(dim);
  const double gamma_chain = n * unit / (1.0 - n * unit), gamma_dot = 2.0 * n * unit / (1.0 - 2.0 * n * unit);
  return 1.02 * (gamma_chain + gamma_dot) + 0x1p-22;
}

// Of cosines approximate by tensor cores. They align the products of a step, and what is accumulated so far, to the
// largest and drop what lies below (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores, PeerJ
// CS 2021): a truncation for each product and step, each within 2 u of the sum of |a_k b_k|; 4 d u has room for both.
BSE_HOST_DEVICE inline double tensor_core_prefilter_error(int64_t dim) { return 2.0 * prefilter_error(dim); }

// Of cosines approximate by the dot products of near unit rows. residual: the largest |y - y'|, at most 2^-7
BSE_HOST_DEVICE inline double normalized_copy_error(int64_t dim, double query_residual, double base_residual) {
  const double residuals = query_residual + base_residual + query_residual * base_residual;
  return 1.001 * residuals + 1.02 * prefilter_error(dim);
}

// Of a row with that 1 / norm; 0, of a row of zeros or of one whose norm overflows, is for the caller to decide.
BSE_HOST_DEVICE inline bool has_prefilter_bound(float reciprocal_norm) {
  return reciprocal_norm >= 0x1p-20f && reciprocal_norm <= 0x1p20f;
}

}  // namespace bse

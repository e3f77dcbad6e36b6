// Proven bounds on the error of approximate cosines. Their dot products are added in another order than in score.h, or
// by bfloat16 instructions. With a bound, they still tell which candidates can be among the best by exact scores.
//
// Products of two bfloat16 values are exact in float32, and products of float32 are fused with an addition. So only
// additions round. Let u = 2^-24, d the number of dimensions and gamma(n) = n u / (1 - n u) (Higham, Accuracy and
// Stability of Numerical Algorithms, section 3.1). Because sum |a_k b_k| <= |a| |b|:
// - The chain of score.h is within gamma(d) |a| |b| of the exact sum, as is any other order of the same additions.
// - bfloat16 instructions differ between vendors in the order and rounding of their additions. In any order there are d
//   additions, and 2 u bounds every rounding in use, including truncation. The sum is within gamma(2 d) |a| |b|.
// The exact and the approximate cosine multiply their sums by the same rounded 1 / (|a| |b|). Its two squared norms are
// chains too, with a relative error of up to gamma(d) each. The factor 1.02 covers this. Rounding the two cosines adds
// at most u each, which 2^-22 covers. Instructions that flush subnormal numbers to zero add an error of
// d 2^-126 (2 + |a| + |b|) to the sum. It is negligible (2^-50) if rows are neither tiny nor huge, which
// has_prefilter_bound() checks.
//
// Rows of other types than bfloat16 are approximated by a normalized bf16 copy: y' near y = a / |a|. For rows i and j,
//   |y_i y_j - y'_i y'_j| <= |y_i - y'_i| |y_j| + |y'_i| |y_j - y'_j|,
// and the dot product of the copies adds its own error.
//
// A fixed-point copy has y' = z / S, where z is S y rounded to integers, for a scale S of the matrix. Products of two
// rows z are added up exactly as 32-bit integers, in runs of at most 2 kFixedPointDepth elements. S is such that no
// such run is longer than kMaxFixedPointLength, before rounding. By Cauchy-Schwarz, no sum then exceeds
// (kMaxFixedPointLength + sqrt(2 kFixedPointDepth) / 2)^2 < 2^31. Each run adds at most 2^-22: it is rounded to float32
// and added to the others. Runs have 32 elements or more, except the last ones.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace bse {

constexpr int64_t kMaxPrefilterDim = 8192;

// Returns the error bound of an approximate cosine, for dim <= kMaxPrefilterDim.
BSE_HOST_DEVICE inline double prefilter_error(int64_t dim) {
  const double unit = 0x1p-24, n = static_cast<double>(dim);
  const double gamma_chain = n * unit / (1.0 - n * unit), gamma_dot = 2.0 * n * unit / (1.0 - 2.0 * n * unit);
  return 1.02 * (gamma_chain + gamma_dot) + 0x1p-22;
}

// Returns the error bound of a cosine of float32 rows whose dot product is the sum of at least four partial sums, each
// of every fourth product or fewer. There are then at most d / 4 + 16 additions to any product, as there are at most 16
// partial sums.
BSE_HOST_DEVICE inline double partial_sums_error(int64_t dim) {
  const double unit = 0x1p-24, n = static_cast<double>(dim), added = 0.25 * n + 16.0;
  return 1.02 * (n * unit / (1.0 - n * unit) + added * unit / (1.0 - added * unit)) + 0x1p-22;
}

// Returns the error bound of a cosine computed by tensor cores. They align the products of a step and the sum so far to
// the largest of these and drop the lower bits (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor
// cores, PeerJ CS 2021). So there is one truncation per product and one per step. Each is within 2 u times the sum of
// all |a_k b_k|, and there are at most 2 d, which 4 d u covers.
BSE_HOST_DEVICE inline double tensor_core_prefilter_error(int64_t dim) { return 2.0 * prefilter_error(dim); }

// Returns the error bound of a cosine computed as the dot product of normalized bf16 copies. residual: largest |y - y'|
// of the rows, at most 2^-7.
BSE_HOST_DEVICE inline double normalized_copy_error(int64_t dim, double query_residual, double base_residual) {
  const double residuals = query_residual + base_residual + query_residual * base_residual;
  return 1.001 * residuals + 1.02 * prefilter_error(dim);
}

constexpr int64_t kFixedPointDepth = 128;          // pairs of elements
constexpr float kMaxFixedPointElement = 32700.0f;  // of int16
constexpr float kMaxFixedPointLength = 46250.0f;

// Returns the error bound of a cosine computed as the dot product of fixed-point copies. residual: largest |y - y'| of
// the rows
BSE_HOST_DEVICE inline double fixed_point_error(int64_t dim, double query_residual, double base_residual) {
  const double unit = 0x1p-24, n = static_cast<double>(dim);
  const double residuals = query_residual + base_residual + query_residual * base_residual;
  return 1.001 * residuals + 1.02 * n * unit / (1.0 - n * unit) + 0x1p-22 * (2.0 + n / 32.0);
}

// Returns whether the bounds hold for a row with this norm for cosine, which is the reciprocal of its length (score.h).
// They hold for 0, the norm of a row of zeros.
BSE_HOST_DEVICE inline bool has_prefilter_bound(float reciprocal_norm) {
  return reciprocal_norm == 0.0f || (reciprocal_norm >= 0x1p-20f && reciprocal_norm <= 0x1p20f);
}

}  // namespace bse

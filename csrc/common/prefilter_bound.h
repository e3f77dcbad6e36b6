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
// Copies of rows in fixed point have y' near y = r a, where r is row_norm(), the reciprocal of the length as computed,
// so that |y| is 1 but for rounding. For rows i and j,
//   |y_i y_j - y'_i y'_j| <= |y_i - y'_i| |y_j| + |y'_i| |y_j - y'_j|,
// and the dot product of the copies adds its own error.
//
// A fixed-point copy has y' = z / S, where z is S y rounded to integers, for a scale S of the matrix. Products of two
// rows z are added up exactly as 32-bit integers, in runs of at most 2 kFixedPointDepth elements. S is such that no
// such run is longer than kMaxFixedPointLength, before rounding. By Cauchy-Schwarz, no sum then exceeds
// (kMaxFixedPointLength + sqrt(2 kFixedPointDepth) / 2)^2 < 2^31. Each run adds at most 2^-22: it is rounded to float32
// and added to the others. There are at most d / 32 + 2 runs, because BlockPlan cuts rows into parts of 16 pairs or
// more.
//
// A copy of bytes (cpu/topk/byte_copy.h) has y' = step b with integers b, and a query z' = step' q near z = r x,
// likewise. The sum D of all q_k b_k is an exact integer, so only the product of float(D) with the float nearest to
// step step' rounds, three times by u. With a lower plane of bytes, two such products and their sum round. Because |y'|
// and |z'| are below 1.4, 2^-20 = 16 u covers this, the rounding of the two cosines included. |D| <= 127
// max_query_word(d) d < 2^31.
#pragma once

#include <cmath>
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

constexpr int64_t kFixedPointDepth = 64;           // pairs of elements
constexpr float kMaxFixedPointElement = 32700.0f;  // of int16
constexpr float kMaxFixedPointLength = 46250.0f;

// Returns the error bound of a cosine computed as the dot product of fixed-point copies. residual: largest |y - y'| of
// the rows
BSE_HOST_DEVICE inline double fixed_point_error(int64_t dim, double query_residual, double base_residual) {
  const double unit = 0x1p-24, n = static_cast<double>(dim);
  const double residuals = query_residual + base_residual + query_residual * base_residual;
  return 1.001 * residuals + 1.02 * n * unit / (1.0 - n * unit) + 0x1p-22 * (2.0 + n / 32.0);
}

// Largest magnitude of an element of a query in fixed point, for dim <= kMaxPrefilterDim.
BSE_HOST_DEVICE inline int32_t max_query_word(int64_t dim) {
  constexpr int64_t kMaxWord = 32767, kMaxSum = int64_t{1} << 24;
  return static_cast<int32_t>(kMaxSum / dim < kMaxWord ? kMaxSum / dim : kMaxWord);
}

// Returns an upper bound on |z - z'| for a query in fixed point. Its words are the integers nearest to z_k / step, but
// for the rounding of three float operations on numbers up to 32767, which is less than 0.01.
BSE_HOST_DEVICE inline double query_word_residual(int64_t dim, float step) {
  return 0.51 * static_cast<double>(step) * sqrt(static_cast<double>(dim)) + 0x1p-23;
}

// Returns an upper bound on |y - y'| for a sum of squares of its elements that was computed in float32, in at most
// kMaxPrefilterDim / 64 + 6 additions one after another. The factor covers the rounding of this sum, and 2^-20 that of
// the elements, which is below 6 u in relation to y_k.
BSE_HOST_DEVICE inline double measured_residual(float sum_of_squares) {
  return 1.001 * sqrt(static_cast<double>(sum_of_squares)) + 0x1p-20;
}

// Returns the error bound of a cosine computed from a query and a copy of bytes, for dim <= kMaxPrefilterDim. The
// residuals bound their distances from the normalized rows.
BSE_HOST_DEVICE inline double byte_copy_error(int64_t dim, double query_residual, double base_residual) {
  const double unit = 0x1p-24, n = static_cast<double>(dim), gamma_chain = n * unit / (1.0 - n * unit);
  const double residuals = query_residual + base_residual + query_residual * base_residual;
  return 1.001 * residuals + 1.02 * gamma_chain + 0x1p-20;
}

// Returns whether the bounds hold for a row with this norm for cosine, which is the reciprocal of its length (score.h).
// They hold for 0, the norm of a row of zeros.
BSE_HOST_DEVICE inline bool has_prefilter_bound(float reciprocal_norm) {
  return reciprocal_norm == 0.0f || (reciprocal_norm >= 0x1p-20f && reciprocal_norm <= 0x1p20f);
}

}  // namespace bse

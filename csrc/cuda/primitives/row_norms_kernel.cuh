// What a metric needs of each row beside its elements: 1 / norm or squared norm (csrc/common/score.h).
//
//   n_i = fma chain of features[i, k]^2 over k ascending        terms[i] = row_term(metric, n_i)
//
// A warp takes 32 rows: its lanes load pieces of each row together (coalesced), turn them in shared memory, and then
// each lane adds up its own row in order. O(count D). The first element that is not finite is
// reported; so is, for whoever screens scores, a row that their bound does not hold for
// (csrc/common/prefilter_bound.h).
#pragma once

#include "common/prefilter_bound.h"
#include "common/score.h"
#include "cuda/runtime/device.h"
#include "cuda/runtime/report.cuh"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

constexpr int kTermWarps = 4;

// ids: [count] rows of the matrix, or null: all      terms: [count]      status: [kNumStatusWords]
// unbounded: one word that becomes 1, or null
__global__ void __launch_bounds__(32 * kTermWarps)
    row_terms_kernel(DeviceMatrix matrix, const int64_t* ids, int64_t count, Metric metric, float* terms,
                     StatusKind not_finite, uint64_t* status, uint32_t* unbounded) {
  BSE_SHARED(float, tiles, [kTermWarps][32][33]);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = (int64_t{blockIdx.x} * kTermWarps + warp) * 32, own = first + lane;
  if (first >= count) return;  // the whole warp
  auto& tile = tiles[warp];
  float norm = 0.0f, largest = 0.0f;
  constexpr uint32_t kNone = ~0u;
  uint32_t bad_column = kNone;
  for (int64_t k0 = 0; k0 < matrix.dim; k0 += 32) {
    for (int i = 0; i < 32; ++i) {
      const bool is_inside = first + i < count && k0 + lane < matrix.dim;
      const int64_t row = is_inside && ids != nullptr ? ids[first + i] : first + i;
      tile[i][lane] = is_inside ? matrix.element(row, k0 + lane) : 0.0f;
    }
    __syncwarp();
    const int depth = static_cast<int>(matrix.dim - k0 < 32 ? matrix.dim - k0 : 32);
    for (int k = 0; k < depth; ++k) {
      const float value = tile[lane][k];
      norm = fmaf(value, value, norm);
      largest = fmaxf(largest, fabsf(value));
      const bool is_finite = fabsf(value) <= 3.402823466e38f;
      if (!is_finite && bad_column == kNone) bad_column = static_cast<uint32_t>(k0 + k);
    }
    __syncwarp();
  }
  if (own >= count) return;
  const float term = row_term(metric, norm);
  terms[own] = term;
  const bool is_small = term == 0.0f && largest < 1.0f;  // zeros, or numbers whose squares are
  if (unbounded != nullptr && !is_small && !allows_screening(term)) atomicOr(unbounded, 1u);
  if (bad_column == kNone) return;
  report(status, not_finite, static_cast<uint32_t>(ids != nullptr ? ids[own] : own), bad_column);
}

}  // namespace bse::cuda

// Norms of rows: reciprocal norm for cosine, 0 for other metrics (csrc/common/score.h).
//
//   n_i = fma chain of features[i, k]^2 over k ascending        norms[i] = row_norm(metric, n_i)
//
// A warp takes 32 rows. Its lanes load 32 elements of each row together (coalesced) and transpose them in shared
// memory. Each lane then adds up its own row in order. O(count D). Reports the first element that is not finite or, for
// cosine, the first row whose cosines are not accurate (csrc/common/score.h). Such rows get the norm NaN, so that they
// have no scores. Sets `unbounded` if the error bound of the prefilter does not hold for some row
// (csrc/common/prefilter_bound.h).
#pragma once

#include "common/prefilter_bound.h"
#include "common/score.h"
#include "cuda/runtime/device.h"
#include "cuda/runtime/report.cuh"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

constexpr int kNormWarps = 4;

// ids: [count] rows of the matrix, or null for rows 0..count-1      norms: [count]      status: [kNumStatusWords]
// unbounded: one word that becomes 1 if a row has no bound, or null
__global__ void __launch_bounds__(32 * kNormWarps)
    row_norms_kernel(DeviceMatrix matrix, const int64_t* ids, int64_t count, Metric metric, float* norms,
                     StatusKind bad_row, uint64_t* status, uint32_t* unbounded) {
  BSE_SHARED(float, tiles, [kNormWarps][32][33]);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = (int64_t{blockIdx.x} * kNormWarps + warp) * 32, own = first + lane;
  if (first >= count) return;  // the whole warp
  auto& tile = tiles[warp];
  float squared_norm = 0.0f, largest = 0.0f;
  uint32_t bad_column = kWholeRow;
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
      squared_norm = fmaf(value, value, squared_norm);
      largest = fmaxf(largest, fabsf(value));
      const bool is_finite = fabsf(value) <= 3.402823466e38f;
      if (!is_finite && bad_column == kWholeRow) bad_column = static_cast<uint32_t>(k0 + k);
    }
    __syncwarp();
  }
  if (own >= count) return;
  const bool is_accurate = metric != Metric::kCosine || largest == 0.0f || has_accurate_cosines(squared_norm);
  const bool is_good = bad_column == kWholeRow && is_accurate;
  const float norm = is_good ? row_norm(metric, squared_norm) : __uint_as_float(0x7FC00000u);
  norms[own] = norm;
  if (unbounded != nullptr && !has_prefilter_bound(norm)) atomicOr(unbounded, 1u);
  if (is_good) return;
  report(status, bad_row, static_cast<uint32_t>(ids != nullptr ? ids[own] : own), bad_column);
}

}  // namespace bse::cuda

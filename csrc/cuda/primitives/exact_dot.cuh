// The exact dot product of two bfloat16 rows by the definition in csrc/common/score.h: one chain of fused multiply-adds
// in float32, computed by one thread. It rescores the pairs that the prefilter leaves undecided.
#pragma once

#include "common/float_types.h"
#include "cuda/runtime/device.h"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

struct alignas(16) Bfloat16Piece {
  uint16_t elements[8];
};

// A row of a matrix for which holds_aligned_bfloat16() is true.
BSE_DEVICE const Bfloat16Piece* bfloat16_row(const DeviceMatrix& matrix, int64_t row) {
  return reinterpret_cast<const Bfloat16Piece*>(static_cast<const uint16_t*>(matrix.data) +
                                                row * matrix.row_stride_elements);
}

// Dot product of two such rows. It is not inlined because it is called rarely, and from many places in unrolled loops.
static __device__ __noinline__ float exact_dot(const Bfloat16Piece* a, const Bfloat16Piece* b, int64_t dim) {
  float acc = 0.0f;
  for (int64_t piece = 0; piece < dim / 8; ++piece) {
    const Bfloat16Piece x = a[piece], y = b[piece];
    BSE_UNROLL
    for (int k = 0; k < 8; ++k) acc = fmaf(bfloat16_to_float(x.elements[k]), bfloat16_to_float(y.elements[k]), acc);
  }
  return acc;
}

}  // namespace bse::cuda

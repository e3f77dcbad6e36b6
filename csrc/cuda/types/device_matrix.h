// A borrowed matrix in device memory, read as float32 (exactly: both 16-bit types embed in it).
#pragma once

#include <cstdint>

#include "common/float_types.h"
#include "common/host_device.h"
#include "common/layouts.h"

namespace bse::cuda {

struct DeviceMatrix : MatrixLayout {
  BSE_HOST_DEVICE float element(int64_t row, int64_t k) const {
    const int64_t offset = row * row_stride_elements + k;
    float value;
    if (dtype == DType::kFloat32) {
      value = static_cast<const float*>(data)[offset];
    } else {
      const uint16_t bits = static_cast<const uint16_t*>(data)[offset];
      value = dtype == DType::kBFloat16 ? bfloat16_to_float(bits) : float16_to_float(bits);
    }
    return round_to_bf16 ? round_to_bfloat16(value) : value;
  }
};

// What kernels for tensor cores can read: bfloat16, all pieces of 16 bytes aligned.
inline bool holds_aligned_bfloat16(const DeviceMatrix& matrix) {
  return matrix.dtype == DType::kBFloat16 && matrix.dim % 8 == 0 && matrix.row_stride_elements % 8 == 0 &&
         reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0;
}

}  // namespace bse::cuda

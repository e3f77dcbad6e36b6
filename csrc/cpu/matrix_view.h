// A borrowed matrix of float32, bfloat16 or float16 rows, read as float32 (exactly: both 16-bit types embed in it).
#pragma once

#include <cstdint>

#include "../common/float_types.h"

namespace bse {

struct MatrixView {
  const void* data = nullptr;  // [num_rows, dim], rows row_stride_elements apart, elements of a row adjacent
  DType dtype = DType::kFloat32;
  int64_t num_rows = 0, dim = 0, row_stride_elements = 0;
  bool round_to_bf16 = false;  // read every element rounded to bfloat16 (precision="bf16")

  // Elements [first, first + count) of a row as float32: in place where the data are, else converted into `scratch`.
  const float* read(int64_t row, int64_t first, int64_t count, float* scratch) const {
    const int64_t offset = row * row_stride_elements + first;
    if (dtype == DType::kFloat32) {
      const float* source = static_cast<const float*>(data) + offset;
      if (!round_to_bf16) return source;
      for (int64_t k = 0; k < count; ++k) scratch[k] = round_to_bfloat16(source[k]);
      return scratch;
    }
    const uint16_t* source = static_cast<const uint16_t*>(data) + offset;
    if (dtype == DType::kBFloat16) {
      for (int64_t k = 0; k < count; ++k) scratch[k] = bfloat16_to_float(source[k]);
    } else if (round_to_bf16) {
      for (int64_t k = 0; k < count; ++k) scratch[k] = round_to_bfloat16(float16_to_float(source[k]));
    } else {
      for (int64_t k = 0; k < count; ++k) scratch[k] = float16_to_float(source[k]);
    }
    return scratch;
  }

  bool reads_in_place() const { return dtype == DType::kFloat32 && !round_to_bf16; }
};

}  // namespace bse

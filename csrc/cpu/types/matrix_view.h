// Reads rows of a float32, bfloat16 or float16 matrix as float32. The conversion is exact. A fixed-point copy
// (cpu/topk/fixed_point_copy.h) is a matrix too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/float_types.h"
#include "common/layouts.h"

namespace bse {

struct MatrixView : MatrixLayout {
  bool is_fixed_point = false;  // elements are int16, whatever dtype says, and only read_pairs() reads them

  // Returns elements [first, first + count) of a row as float32. They are in `scratch` if they had to be converted.
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

  // Returns elements [2 first, 2 (first + count)) as pairs of 16-bit elements, each pair in the place of a float; 0
  // past the end. The elements are int16 if is_fixed_point, else bfloat16, which needs holds_bfloat16(). scratch:
  // [count]
  const float* read_pairs(int64_t row, int64_t first, int64_t count, float* scratch) const {
    const int64_t offset = row * row_stride_elements + 2 * first, num_elements = std::min(2 * count, dim - 2 * first);
    const uint16_t* source = static_cast<const uint16_t*>(data) + offset;
    const bool is_whole = num_elements == 2 * count && reinterpret_cast<uintptr_t>(source) % sizeof(float) == 0;
    const bool has_elements = dtype == DType::kBFloat16 || is_fixed_point;
    if (has_elements && is_whole) return reinterpret_cast<const float*>(source);
    const auto element = [&](int64_t k) -> uint32_t {
      if (k >= num_elements) return 0;
      if (has_elements) return source[k];
      if (dtype == DType::kFloat16) return float_to_bfloat16(float16_to_float(source[k]));
      return float_to_bfloat16(static_cast<const float*>(data)[offset + k]);
    };
    for (int64_t pair = 0; pair < count; ++pair) {
      const uint32_t bits = element(2 * pair) | element(2 * pair + 1) << 16;
      std::memcpy(scratch + pair, &bits, sizeof bits);
    }
    return scratch;
  }

  // Prefetches what read() would read.
  void prefetch(int64_t row, int64_t first, int64_t count) const {
    const char* begin = static_cast<const char*>(data) + (row * row_stride_elements + first) * element_bytes();
    for (int64_t byte = 0; byte < count * element_bytes(); byte += 64) __builtin_prefetch(begin + byte);
  }

  int64_t element_bytes() const { return dtype == DType::kFloat32 && !is_fixed_point ? 4 : 2; }
  bool reads_in_place() const { return dtype == DType::kFloat32 && !round_to_bf16; }
  bool holds_bfloat16() const { return dtype == DType::kBFloat16 || round_to_bf16; }
};

}  // namespace bse

// A borrowed matrix of float32, bfloat16 or float16 rows, read as float32 (exactly: both 16-bit types embed in it).
#pragma once

#include <cstdint>
#include <cstring>

namespace bse {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

inline float bfloat16_to_float(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline float float16_to_float(uint16_t value) {
  const uint32_t sign = uint32_t{value & 0x8000u} << 16;
  const uint32_t magnitude = value & 0x7FFFu;
  uint32_t bits;
  if (magnitude >= 0x7C00u) {  // inf, NaN
    bits = sign | 0x7F800000u | (magnitude & 0x3FFu) << 13;
  } else if (magnitude >= 0x400u) {
    bits = sign | ((magnitude << 13) + 0x38000000u);
  } else {  // zero and subnormals: magnitude * 2^-24
    const float scaled = static_cast<float>(magnitude) * 0x1p-24f;
    std::memcpy(&bits, &scaled, sizeof bits);
    bits |= sign;
  }
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Nearest bfloat16, ties to even, as a float32. NaN stays NaN.
inline float round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return value;
  bits = (bits + 0x7FFFu + (bits >> 16 & 1)) & 0xFFFF0000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

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

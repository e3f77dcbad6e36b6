// Conversions between float32 and the bits of bfloat16 and float16. Rounding is to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace bse {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
constexpr DType kLastDType = DType::kFloat16;

BSE_HOST_DEVICE inline float bfloat16_to_float(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

BSE_HOST_DEVICE inline float float16_to_float(uint16_t value) {
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

// Rounds to the nearest bfloat16 and returns it as a float32. NaN stays NaN.
BSE_HOST_DEVICE inline float round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return value;
  bits = (bits + 0x7FFFu + (bits >> 16 & 1)) & 0xFFFF0000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

BSE_HOST_DEVICE inline uint16_t float_to_bfloat16(float value) {
  value = round_to_bfloat16(value);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// Requires a finite value. Magnitudes that round beyond the largest float16 become infinity.
BSE_HOST_DEVICE inline uint16_t float_to_float16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and more
  if (magnitude >= 0x38800000u) {                                              // 2^-14: normal float16
    return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1)) >> 13);
  }
  // A subnormal float16 is a multiple of 2^-24, the spacing of float32 in [1/2, 1). Adding 1/2 thus rounds to it.
  float small;
  std::memcpy(&small, &magnitude, sizeof small);
  small += 0.5f;
  uint32_t rounded;
  std::memcpy(&rounded, &small, sizeof rounded);
  return static_cast<uint16_t>(sign | (rounded - 0x3F000000u));
}

}  // namespace bse

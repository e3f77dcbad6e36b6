// Which values a bank can hold.
#pragma once

#include <limits>

#include "common/float_types.h"

namespace bse {

// Values of this magnitude and more round to infinity once stored, or are it already. Unit rows cannot.
inline float first_infinite(DType dtype, bool normalize) {
  if (normalize || dtype == DType::kFloat32) return std::numeric_limits<float>::infinity();
  return dtype == DType::kFloat16 ? 65520.0f : 0x1.FFp127f;
}

}  // namespace bse

// Range of the values that an embedding bank can store.
#pragma once

#include <limits>

#include "common/float_types.h"

namespace bse {

// Returns the smallest magnitude that is stored as infinity in `dtype`: halfway from the largest finite value to the
// next power of two. For float32 it is infinity itself. So it is for normalized rows, because they are never that
// large.
inline float first_infinite(DType dtype, bool normalize) {
  if (normalize || dtype == DType::kFloat32) return std::numeric_limits<float>::infinity();
  return dtype == DType::kFloat16 ? 65520.0f : 0x1.FFp127f;
}

}  // namespace bse

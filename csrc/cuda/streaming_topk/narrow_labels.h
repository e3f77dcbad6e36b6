// Labels of the base rows as 32-bit integers in base order, for kernels that compare a label with every score.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"

namespace bse::cuda {

struct NarrowLabels {
  static constexpr int32_t kUnknown = -1;      // label of a base row without one
  static constexpr int32_t kEqualToNone = -2;  // label of a query without one, or whose label is not compared
  int32_t* of_base = nullptr;                  // [num_base], or null if there are no labels
  uint32_t* has_wide = nullptr;                // word, nonzero if a base label needs more bits; then none is compared

  BSE_DEVICE int32_t of_query(int64_t label) const {
    return of_base == nullptr || *has_wide != 0 || label < 0 || label > 0x7FFFFFFF ? kEqualToNone
                                                                                   : static_cast<int32_t>(label);
  }
};

}  // namespace bse::cuda

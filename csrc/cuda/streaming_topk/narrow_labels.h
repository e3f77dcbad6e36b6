// Labels of the base in 32 bits and in the order of its rows, for kernels that compare them with every score.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"

namespace bse::cuda {

struct NarrowLabels {
  static constexpr int32_t kUnknown = -1;      // of a base row
  static constexpr int32_t kEqualToNone = -2;  // of a row whose label is unknown, or not compared
  int32_t* of_base = nullptr;                  // [num_base], or null: there are no labels
  uint32_t* has_wide = nullptr;  // a word that is not 0 if some label of the base has more bits: none is compared then

  BSE_DEVICE int32_t of_query(int64_t label) const {
    return of_base == nullptr || *has_wide != 0 || label < 0 || label > 0x7FFFFFFF ? kEqualToNone
                                                                                   : static_cast<int32_t>(label);
  }
};

}  // namespace bse::cuda

// Sizes of launches.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/runtime/device.h"

namespace bse::cuda {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Number of blocks of a kernel with a grid-stride loop: enough for all items, at most blocks_per_multiprocessor times
// the number of multiprocessors, at least 1.
inline unsigned grid_size(int64_t num_items, int64_t items_per_block, int64_t blocks_per_multiprocessor) {
  const int64_t most = device::num_multiprocessors() * blocks_per_multiprocessor;
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div(num_items, items_per_block), 1, most));
}

}  // namespace bse::cuda

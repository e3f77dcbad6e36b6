// A bitonic sorting network (Batcher 1968), run by one block.
#pragma once

#include "device.h"

namespace bse::cuda {

// ranks: [length], length a power of two, ascending afterwards.
BSE_DEVICE void bitonic_sort(uint64_t* ranks, uint32_t length) {
  for (uint32_t size = 2; size <= length; size *= 2) {
    for (uint32_t distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < length / 2; i += blockDim.x) {
        const uint32_t low = 2 * i - (i & (distance - 1)), high = low + distance;
        const bool ascends = (low & size) == 0;
        const uint64_t a = ranks[low], b = ranks[high];
        if ((a > b) == ascends) {
          ranks[low] = b;
          ranks[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace bse::cuda

// A bitonic sorting network (Batcher 1968), run by one block or by one warp. O(length log^2 length) comparisons.
#pragma once

#include "cuda/runtime/device.h"

namespace bse::cuda {

// Sorts with `num_threads` threads, this one being number `thread`. wait() is a barrier of these threads.
template <class Wait>
BSE_DEVICE void bitonic_sort(uint64_t* ranks, uint32_t length, unsigned thread, unsigned num_threads,
                             const Wait& wait) {
  for (uint32_t size = 2; size <= length; size *= 2) {
    for (uint32_t distance = size / 2; distance > 0; distance /= 2) {
      wait();
      for (uint32_t i = thread; i < length / 2; i += num_threads) {
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
  wait();
}

// Sort ranks ascending with all threads of a block or of a warp. ranks: [length], length a power of two. Both begin and
// end with a barrier.
BSE_DEVICE void block_sort(uint64_t* ranks, uint32_t length) {
  bitonic_sort(ranks, length, threadIdx.x, blockDim.x, [] { __syncthreads(); });
}
BSE_DEVICE void warp_sort(uint64_t* ranks, uint32_t length) {
  bitonic_sort(ranks, length, threadIdx.x % 32, 32, [] { __syncwarp(); });
}

}  // namespace bse::cuda

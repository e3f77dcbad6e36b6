// Sums over the threads of a block, in thread order.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Returns the sum of `value` over the threads before this one. *total becomes the sum over all threads. All threads
// call it, and blockDim.x is a multiple of 32. Begins and ends with a barrier.
// sums: [num_threads / 32 + 1] in shared memory
BSE_DEVICE uint32_t exclusive_sum(uint32_t value, uint32_t* sums, uint32_t* total) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
  const uint32_t lower = lanes_before(value);
  __syncthreads();
  if (lane == 31) sums[warp] = lower + value;
  __syncthreads();
  uint32_t before = 0, all = 0;
  for (unsigned w = 0; w < num_warps; ++w) {
    before += w < warp ? sums[w] : 0;
    all += sums[w];
  }
  __syncthreads();
  *total = all;
  return before + lower;
}

}  // namespace bse::cuda

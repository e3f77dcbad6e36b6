// Index of a thread in its launch, and sums over the lanes of a warp.
#pragma once

#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr unsigned kAllLanes = ~0u;

// Index and number of threads of a one-dimensional launch: for (i = thread_index(); i < count; i += num_threads()).
BSE_DEVICE int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
BSE_DEVICE int64_t num_threads() { return int64_t{gridDim.x} * blockDim.x; }

// Sum of `value` over the lanes below this one. All lanes call it.
BSE_DEVICE uint32_t lanes_before(uint32_t value) {
  const unsigned lane = threadIdx.x % 32;
  uint32_t sum = value;
  BSE_UNROLL
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, sum, distance);
    if (lane >= distance) sum += other;
  }
  return sum - value;
}

}  // namespace bse::cuda

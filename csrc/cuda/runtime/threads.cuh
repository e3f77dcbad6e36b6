// Who a thread is, and all lanes of its warp.
#pragma once

#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr unsigned kAllLanes = ~0u;

// Of all threads of a launch in one dimension: for (i = thread_index(); i < count; i += num_threads()).
BSE_DEVICE int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
BSE_DEVICE int64_t num_threads() { return int64_t{gridDim.x} * blockDim.x; }

// The sum of `value` over the lanes before this one.
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

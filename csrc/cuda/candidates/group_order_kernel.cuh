// The keyed permutation (csrc/common/permutation.h) that forms the groups of rows with grouped candidates.
#pragma once

#include "common/permutation.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// order: [n] rows of the subset, group after group
__global__ void group_order_kernel(uint32_t n, uint64_t seed, uint32_t* order) {
  const KeyedPermutation permutation(n, seed, Purpose::kGroups, 0, 0);
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    order[i] = permutation(i);
  }
}

}  // namespace bse::cuda

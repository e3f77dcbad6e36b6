// Roots of walks, drawn independently or as a permutation of all rows. Each result is a pure function of its index
// (csrc/common/random_stream.h, permutation.h).
#pragma once

#include <cstdint>

#include "common/permutation.h"
#include "common/random_stream.h"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

__global__ void independent_roots_kernel(uint32_t num_rows, int64_t num_walks, uint64_t seed, uint32_t epoch,
                                         int64_t* roots /* [num_walks] */) {
  for (int64_t walk = thread_index(); walk < num_walks; walk += num_threads()) {
    WordStream words(seed, Purpose::kRoots, epoch, static_cast<uint32_t>(walk), 0);
    roots[walk] = words.next_below(num_rows);
  }
}

__global__ void root_order_kernel(uint32_t num_rows, uint64_t seed, uint32_t epoch, int64_t* order /* [num_rows] */) {
  const KeyedPermutation permutation(num_rows, seed, Purpose::kRootOrder, epoch, 0);
  for (int64_t position = thread_index(); position < num_rows; position += num_threads()) {
    order[position] = permutation(static_cast<uint32_t>(position));
  }
}

}  // namespace bse::cuda

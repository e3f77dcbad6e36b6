// The kernels behind grouping.cuh: an exclusive scan of the group sizes, and the move of items to their groups.
#pragma once

#include <cstdint>

#include "cuda/primitives/block_scan.cuh"
#include "cuda/primitives/grouping.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr unsigned kMaxScanThreads = 1024;
constexpr int kScannedPerThread = 8;

// Sums of the chunks of a scan, one chunk per block. chunk_sums: [gridDim.x]
__global__ void __launch_bounds__(kMaxScanThreads)
    chunk_sums_kernel(const uint32_t* values /* [num_values] */, int64_t num_values, int64_t chunk_size,
                      uint32_t* chunk_sums) {
  BSE_SHARED(uint32_t, warp_sums, [kMaxScanThreads / 32 + 1]);
  const int64_t begin = blockIdx.x * chunk_size, end = min(begin + chunk_size, num_values);
  uint32_t sum = 0, total;
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) sum += values[i];
  exclusive_sum(sum, warp_sums, &total);
  if (threadIdx.x == 0) chunk_sums[blockIdx.x] = total;
}

// Writes the exclusive sums of values to begins, and the sum of all to begins[num_values] and *total. Resets the values
// to 0. One chunk per block.
__global__ void __launch_bounds__(kMaxScanThreads)
    scan_kernel(uint32_t* values /* [num_values] */, int64_t num_values, int64_t chunk_size,
                const uint32_t* chunk_sums /* [gridDim.x], not read if there is one chunk */,
                uint32_t* begins /* [num_values + 1] */, uint64_t* total) {
  BSE_SHARED(uint32_t, warp_sums, [kMaxScanThreads / 32 + 1]);
  uint32_t before = 0, sum = 0;
  for (unsigned chunk = threadIdx.x; chunk < blockIdx.x; chunk += blockDim.x) sum += chunk_sums[chunk];
  exclusive_sum(sum, warp_sums, &before);
  const int64_t begin = blockIdx.x * chunk_size, end = min(begin + chunk_size, num_values);
  for (int64_t tile = begin; tile < end; tile += blockDim.x * kScannedPerThread) {
    const int64_t first = tile + threadIdx.x * kScannedPerThread;
    uint32_t own[kScannedPerThread], own_sum = 0;
    BSE_UNROLL
    for (int i = 0; i < kScannedPerThread; ++i) {
      own[i] = first + i < end ? values[first + i] : 0;
      own_sum += own[i];
    }
    uint32_t tile_sum;
    uint32_t position = before + exclusive_sum(own_sum, warp_sums, &tile_sum);
    BSE_UNROLL
    for (int i = 0; i < kScannedPerThread; ++i) {
      if (first + i >= end) continue;
      begins[first + i] = position;
      values[first + i] = 0;
      position += own[i];
    }
    before += tile_sum;
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    begins[num_values] = before;
    *total = before;
  }
}

__global__ void gather_groups_kernel(Groups groups, const uint64_t* num_items) {
  for (int64_t i = thread_index(); i < static_cast<int64_t>(*num_items); i += num_threads()) {
    const Member item = groups.items[i];
    if (item.group != kNoGroup) groups.members[groups.begins[item.group] + groups.slots[i]] = item;
  }
}

}  // namespace bse::cuda

// Items brought together by group, and their places in a sorted order.
//
// Whoever puts an item takes the next slot of its group; a scan of the group sizes says where groups begin, and every
// item moves there. Within a group the order is that of arrival, which differs from run to run: what reads a group
// takes it for a set. rank_of() sorts: if groups ascend with (key, value), it is an item's place among all, found by
// comparing it with its group. O(1) an item and group, and O(group size) for rank_of(), so groups to be sorted should
// be small.
#pragma once

#include <cstdint>

#include "block_scan.cuh"
#include "device.h"

namespace bse::cuda {

struct Member {
  uint64_t key;
  uint32_t value;
  uint32_t group;  // or kNoGroup
};

constexpr uint32_t kNoGroup = 0xFFFFFFFFu;

struct Groups {
  Member* items;         // [max_items] as they were put
  uint32_t* slots;       // [max_items] of items within their groups
  uint32_t* sizes;       // [max_groups] all 0 before the first item is put
  uint32_t* begins;      // [max_groups + 1]
  uint32_t* chunk_sums;  // [kMaxChunks]
  Member* members;       // [max_items] items by group
};

BSE_DEVICE int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
BSE_DEVICE int64_t num_threads() { return int64_t{gridDim.x} * blockDim.x; }

BSE_DEVICE void put(const Groups& groups, int64_t i, uint64_t key, uint32_t value, uint32_t group) {
  groups.items[i] = {key, value, group};
  groups.slots[i] = atomicAdd(&groups.sizes[group], 1u);
}

BSE_DEVICE void put_nothing(const Groups& groups, int64_t i) { groups.items[i].group = kNoGroup; }

BSE_DEVICE bool is_before(const Member& a, const Member& b) {
  return a.key != b.key ? a.key < b.key : a.value < b.value;
}

// Of the member at `index`, among all.
BSE_DEVICE uint32_t rank_of(const Groups& groups, int64_t index) {
  const Member member = groups.members[index];
  const uint32_t begin = groups.begins[member.group], end = groups.begins[member.group + 1];
  uint32_t rank = begin;
  for (uint32_t other = begin; other < end; ++other) rank += is_before(groups.members[other], member) ? 1 : 0;
  return rank;
}

// Sums and scans are cut into chunks, one a block.
constexpr int64_t kMaxChunks = 1024;
constexpr unsigned kScanThreads = 256;

// chunk_sums: [gridDim.x]
__global__ void chunk_sums_kernel(const uint32_t* values /* [num_values] */, int64_t num_values, int64_t chunk_size,
                                  uint32_t* chunk_sums) {
  BSE_SHARED(uint32_t, warp_sums, [kScanThreads / 32 + 1]);
  const int64_t begin = blockIdx.x * chunk_size, end = min(begin + chunk_size, num_values);
  uint32_t sum = 0, total;
  for (int64_t i = begin + threadIdx.x; i < end; i += kScanThreads) sum += values[i];
  exclusive_sum(sum, warp_sums, &total);
  if (threadIdx.x == 0) chunk_sums[blockIdx.x] = total;
}

// Exclusive sums of values, which become 0. total: that of all
__global__ void scan_kernel(uint32_t* values /* [num_values] */, int64_t num_values, int64_t chunk_size,
                            const uint32_t* chunk_sums /* [gridDim.x], not read if there is one */,
                            uint32_t* begins /* [num_values + 1] */, uint64_t* total) {
  constexpr int kPerThread = 4;
  BSE_SHARED(uint32_t, warp_sums, [kScanThreads / 32 + 1]);
  uint32_t before = 0, sum = 0;
  for (unsigned chunk = threadIdx.x; chunk < blockIdx.x; chunk += kScanThreads) sum += chunk_sums[chunk];
  exclusive_sum(sum, warp_sums, &before);
  const int64_t begin = blockIdx.x * chunk_size, end = min(begin + chunk_size, num_values);
  for (int64_t tile = begin; tile < end; tile += kScanThreads * kPerThread) {
    const int64_t first = tile + threadIdx.x * kPerThread;
    uint32_t own[kPerThread], own_sum = 0;
    BSE_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      own[i] = first + i < end ? values[first + i] : 0;
      own_sum += own[i];
    }
    uint32_t tile_sum;
    uint32_t position = before + exclusive_sum(own_sum, warp_sums, &tile_sum);
    BSE_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
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

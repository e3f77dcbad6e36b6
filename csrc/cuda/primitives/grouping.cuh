// Items brought together by group, and their places in a sorted order.
//
// Whoever puts an item takes the next slot of its group; a scan of the group sizes says where groups begin, and every
// item moves there. Within a group the order is that of arrival, which differs from run to run: what reads a group
// takes it for a set. To sort, items are put in groups that ascend; rank_of() then finds an item's place among all by
// comparing (key, value) within its group. O(1) an item and group, O(group size) for rank_of(): groups to be sorted
// should be small.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

struct Member {
  uint64_t key;
  uint32_t value;
  uint32_t group;  // or kNoGroup
};

constexpr uint32_t kNoGroup = 0xFFFFFFFFu;
constexpr int64_t kMaxChunks = 1024;  // of a scan

struct Groups {
  Member* items;         // [max_items] as they were put
  uint32_t* slots;       // [max_items] of items within their groups
  uint32_t* sizes;       // [max_groups] all 0 before the first item is put
  uint32_t* begins;      // [max_groups + 1]
  uint32_t* chunk_sums;  // [kMaxChunks]
  Member* members;       // [max_items] items by group
};

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

}  // namespace bse::cuda

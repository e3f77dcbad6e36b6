// Groups items, and ranks them in sorted order.
//
// put() gives an item the next slot of its group. A scan of the group sizes tells where groups begin, and every item
// then moves to its group. Items of a group are in order of arrival, which differs from run to run: readers must treat
// a group as a set. To sort, put items in groups that ascend with the key. rank_of() then finds the rank of an item
// among all by comparing (key, value) within its group. Complexity: O(1) per item and group, O(group size) per
// rank_of(), so groups to be sorted should be small.
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
constexpr int64_t kMaxChunks = 1024;  // blocks of a scan

struct Groups {
  Member* items;         // [max_items] in the order of put()
  uint32_t* slots;       // [max_items] slot of each item within its group
  uint32_t* sizes;       // [max_groups] all 0 before the first put()
  uint32_t* begins;      // [max_groups + 1] first index of each group in members
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

// Rank of the member at `index` among all members, by (group, key, value).
BSE_DEVICE uint32_t rank_of(const Groups& groups, int64_t index) {
  const Member member = groups.members[index];
  const uint32_t begin = groups.begins[member.group], end = groups.begins[member.group + 1];
  uint32_t rank = begin;
  for (uint32_t other = begin; other < end; ++other) rank += is_before(groups.members[other], member) ? 1 : 0;
  return rank;
}

}  // namespace bse::cuda

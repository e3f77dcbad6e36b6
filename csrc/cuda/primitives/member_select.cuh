// Radix select: one block finds the first members of a group in the order (key, value).
//
// Digits are determined one at a time, the most significant first. A histogram of the members that match all earlier
// digits tells which digit the last selected member has. The search ends as soon as all matching members are selected;
// it reaches the digits of `value` only if keys are equal. O(group size) per digit. The result does not depend on the
// order of members.
#pragma once

#include <cstdint>

#include "cuda/primitives/block_scan.cuh"
#include "cuda/primitives/grouping.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// The digits of (key, value), most significant first.
constexpr int kDigitBits = 8, kNumDigitValues = 1 << kDigitBits;
constexpr int kNumKeyDigits = 64 / kDigitBits, kNumDigits = kNumKeyDigits + 32 / kDigitBits;

// The leading digits of a member, those set in the masks. It covers all members that are not larger in these digits.
struct MemberPrefix {
  uint64_t key = 0, key_mask = 0;
  uint32_t value = 0, value_mask = 0;

  BSE_DEVICE bool matches(const Member& member) const {
    return (member.key & key_mask) == key && (member.value & value_mask) == value;
  }
  BSE_DEVICE bool covers(const Member& member) const {
    const uint64_t own_key = member.key & key_mask;
    return own_key != key ? own_key < key : (member.value & value_mask) <= value;
  }
  BSE_DEVICE static uint32_t digit_of(const Member& member, int digit) {
    const uint64_t word = digit < kNumKeyDigits ? member.key >> (64 - kDigitBits * (digit + 1))
                                                : member.value >> (32 - kDigitBits * (digit - kNumKeyDigits + 1));
    return static_cast<uint32_t>(word) % kNumDigitValues;
  }
  BSE_DEVICE void extend(int digit, uint32_t digit_value) {
    if (digit < kNumKeyDigits) {
      const int shift = 64 - kDigitBits * (digit + 1);
      key |= uint64_t{digit_value} << shift;
      key_mask |= uint64_t{kNumDigitValues - 1} << shift;
    } else {
      const int shift = 32 - kDigitBits * (digit - kNumKeyDigits + 1);
      value |= digit_value << shift;
      value_mask |= uint32_t{kNumDigitValues - 1} << shift;
    }
  }
};

constexpr unsigned kMemberThreads = 128;

// Calls body(member) for each member, in one thread of the block. A thread loads several members at once, because the
// group of a batch that contains a hub may be large.
template <class Body>
BSE_DEVICE void for_members(const Member* members /* [num_members] */, uint32_t num_members, const Body& body) {
  constexpr uint32_t kAtOnce = 4;
  for (uint32_t begin = threadIdx.x; begin < num_members; begin += kAtOnce * kMemberThreads) {
    Member loaded[kAtOnce];
    BSE_UNROLL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      const uint32_t i = begin + k * kMemberThreads;
      if (i < num_members) loaded[k] = members[i];
    }
    BSE_UNROLL
    for (uint32_t k = 0; k < kAtOnce; ++k) {
      if (begin + k * kMemberThreads < num_members) body(loaded[k]);
    }
  }
}

// Returns the prefix that covers exactly the first `count` members in the order (key, value), 0 < count < num_members.
// (key, value) must be distinct. All threads of the block call it together.
BSE_DEVICE MemberPrefix select(const Member* members /* [num_members] */, uint32_t num_members, uint32_t count) {
  constexpr int kPerThread = kNumDigitValues / static_cast<int>(kMemberThreads);
  BSE_SHARED(uint32_t, histogram, [kNumDigitValues]);
  BSE_SHARED(uint32_t, warp_sums, [kMemberThreads / 32 + 1]);
  BSE_SHARED(uint32_t, found_value);
  BSE_SHARED(uint32_t, found_before);
  MemberPrefix prefix;
  for (int digit = 0; digit < kNumDigits; ++digit) {
    for (int k = 0; k < kPerThread; ++k) histogram[threadIdx.x * kPerThread + k] = 0;
    __syncthreads();
    for_members(members, num_members, [&](const Member& member) {
      if (prefix.matches(member)) atomicAdd(&histogram[MemberPrefix::digit_of(member, digit)], 1u);
    });
    __syncthreads();
    uint32_t sum = 0, total;
    for (int k = 0; k < kPerThread; ++k) sum += histogram[threadIdx.x * kPerThread + k];
    uint32_t before = exclusive_sum(sum, warp_sums, &total);
    for (int k = 0; k < kPerThread; ++k) {
      const uint32_t value = threadIdx.x * kPerThread + k;
      if (before < count && count <= before + histogram[value]) {
        found_value = value;
        found_before = before;
      }
      before += histogram[value];
    }
    __syncthreads();
    prefix.extend(digit, found_value);
    count -= found_before;
    if (count == histogram[found_value]) break;  // all matching members are selected
    __syncthreads();                             // before the histogram is cleared
  }
  return prefix;
}

}  // namespace bse::cuda

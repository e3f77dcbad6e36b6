// Vote rounds: unassigned rows propose to the batch that most of their neighbours are in, batches take their best.
//
// Proposals read the owners and free places at the start of the round; in between they are grouped by batch
// (grouping.cuh). A batch selects by (rank, row) with a radix select: who is taken does not depend on the order in
// which proposals arrived.
#pragma once

#include <cstdint>

#include "block_scan.cuh"
#include "partition_rows_kernels.cuh"
#include "partition_state.cuh"
#include "warp_tally.cuh"

namespace bse::cuda {

BSE_DEVICE uint32_t room_of(const PartitionState& state, int32_t batch, uint32_t round) {
  return static_cast<uint32_t>(
      partition_rules::room_in_round(state.sizes.capacity(batch), state.num_free[batch], round));
}

// A warp for each row; it puts one proposal. O(num_asked) a row.
__global__ void propose_kernel(PartitionState state, RowList unassigned, uint64_t round_key, uint32_t round,
                               uint32_t max_votes) {
  BSE_SHARED(int32_t, table_batches, [kTallyWarps][WarpTally::kNumSlots]);
  BSE_SHARED(uint32_t, table_votes, [kTallyWarps][WarpTally::kNumSlots]);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  WarpTally tally(table_batches[warp], table_votes[warp]);
  const int64_t num_rows = num_rows_of(unassigned);
  for (int64_t i = thread_index() / 32; i < num_rows; i += num_threads() / 32) {
    const uint32_t row = unassigned.rows[i];
    const uint64_t row_hash = keyed_hash(round_key, row);
    tally.count(state.graph, state.owner, row, static_cast<uint32_t>(row_hash >> 32),
                partition_rules::num_votes(state.is_stranded[row] != 0, max_votes), state.status);
    uint32_t votes[WarpTally::kPerLane], most_votes = 0;
    BSE_UNROLL
    for (int k = 0; k < WarpTally::kPerLane; ++k) {
      votes[k] = tally.votes(k);
      if (votes[k] > 0 && room_of(state, tally.batch(k), round) == 0) votes[k] = 0;
      most_votes = max(most_votes, votes[k]);
    }
    most_votes = __reduce_max_sync(~0u, most_votes);
    __syncwarp();  // all lanes have read is_stranded
    if (lane == 0) state.is_stranded[row] = most_votes == 0 ? 1 : 0;
    if (most_votes == 0) {
      if (lane == 0) put_nothing(state.groups, i);
      continue;
    }
    int32_t batch = partition_rules::kUnassigned;
    uint64_t hash = 0;
    BSE_UNROLL
    for (int k = 0; k < WarpTally::kPerLane; ++k) {
      if (votes[k] != most_votes) continue;
      const uint64_t own_hash = partition_rules::choice_hash(row_hash, tally.batch(k));
      if (batch >= 0 && own_hash <= hash) continue;
      batch = tally.batch(k);
      hash = own_hash;
    }
    const bool is_chosen = warp_max(hash) == hash && batch >= 0;
    if (is_chosen) {
      put(state.groups, i, partition_rules::proposal_rank(row_hash, most_votes), row, static_cast<uint32_t>(batch));
    }
  }
}

// The digits of (key, value), most significant first.
constexpr int kDigitBits = 8, kNumDigitValues = 1 << kDigitBits;
constexpr int kNumKeyDigits = 64 / kDigitBits, kNumDigits = kNumKeyDigits + 32 / kDigitBits;

// All members that are no larger than it in the digits that are set in its masks.
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

constexpr unsigned kAcceptThreads = 128;

// The prefix that covers the first `count` members in the order (key, value), 0 < count < num_members. All threads of
// the block call it together.
BSE_DEVICE MemberPrefix select(const Member* members /* [num_members] */, uint32_t num_members, uint32_t count) {
  constexpr int kPerThread = kNumDigitValues / static_cast<int>(kAcceptThreads);
  BSE_SHARED(uint32_t, histogram, [kNumDigitValues]);
  BSE_SHARED(uint32_t, warp_sums, [kAcceptThreads / 32 + 1]);
  BSE_SHARED(uint32_t, found_value);
  BSE_SHARED(uint32_t, found_before);
  MemberPrefix prefix;
  for (int digit = 0; digit < kNumDigits; ++digit) {
    for (int k = 0; k < kPerThread; ++k) histogram[threadIdx.x * kPerThread + k] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < num_members; i += kAcceptThreads) {
      const Member member = members[i];
      if (prefix.matches(member)) atomicAdd(&histogram[MemberPrefix::digit_of(member, digit)], 1u);
    }
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
    if (count == histogram[found_value]) break;  // all that match
    __syncthreads();                             // before the histogram is cleared
  }
  return prefix;
}

// A block for each batch. It takes its best proposals, up to its room; they are no longer filled in, unless they only
// return.
__global__ void accept_kernel(PartitionState state, uint32_t round, bool are_returning) {
  for (int64_t batch = blockIdx.x; batch < state.sizes.num_batches; batch += gridDim.x) {
    const uint32_t begin = state.groups.begins[batch], num_proposals = state.groups.begins[batch + 1] - begin;
    const uint32_t num_accepted = min(num_proposals, room_of(state, static_cast<int32_t>(batch), round));
    if (num_accepted == 0) continue;
    const Member* const proposals = state.groups.members + begin;
    MemberPrefix prefix;
    if (num_accepted < num_proposals) prefix = select(proposals, num_proposals, num_accepted);
    for (uint32_t i = threadIdx.x; i < num_proposals; i += kAcceptThreads) {
      const Member proposal = proposals[i];
      if (!prefix.covers(proposal)) continue;
      state.owner[proposal.value] = static_cast<int32_t>(batch);
      if (!are_returning) state.is_filled[proposal.value] = 0;
    }
    __syncthreads();  // all threads have read the free places
    if (threadIdx.x == 0) state.num_free[batch] -= num_accepted;
  }
}

}  // namespace bse::cuda

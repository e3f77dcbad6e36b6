// Vote rounds: each unassigned row proposes to the batch with room that has most of its neighbors, and batches accept
// the best proposals.
//
// Proposals depend on owners and free places at the start of the round only. They are then grouped by batch
// (grouping.cuh). A batch selects proposals by (rank, row) with a radix select, so the result does not depend on the
// order in which proposals arrived.
#pragma once

#include <cstdint>

#include "cuda/partition/state.cuh"
#include "cuda/primitives/member_select.cuh"
#include "cuda/primitives/warp_tally.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

BSE_DEVICE uint32_t room_of(const PartitionState& state, int32_t batch, uint32_t round) {
  return static_cast<uint32_t>(
      partition_rules::room_in_round(state.sizes.capacity(batch), state.num_free[batch], round));
}

// Sets the number of voters of a round: all unassigned rows, or none if the round is conditional and the round before
// placed few rows. Empties `left`, the list for rows that stay unassigned. One thread.
__global__ void begin_round_kernel(PartitionState state, RowList unassigned, RowList left, bool is_conditional) {
  const bool takes_place =
      !is_conditional || partition_rules::brings_much(static_cast<int64_t>(state.counters[kNumGrouped]),
                                                      static_cast<int64_t>(state.counters[kNumVoters]));
  state.counters[kNumVoters] = takes_place ? *unassigned.num_rows : 0;
  *left.num_rows = 0;
}

// One warp per voter puts its proposal, if a batch with room got votes. The number of voters is in the counter
// kNumVoters. O(max_votes) per row.
__global__ void __launch_bounds__(kTallyThreads, kTallyBlocks)
    propose_kernel(PartitionState state, RowList unassigned, uint64_t round_key, uint32_t round, uint32_t max_votes) {
  BSE_SHARED(int32_t, table_batches, [kTallyWarps][WarpTally::kNumSlots]);
  BSE_SHARED(uint32_t, table_votes, [kTallyWarps][WarpTally::kNumSlots]);
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  WarpTally tally(table_batches[warp], table_votes[warp]);
  const auto num_voters = static_cast<int64_t>(state.counters[kNumVoters]);
  for (int64_t i = thread_index() / 32; i < num_voters; i += num_threads() / 32) {
    const uint32_t row = unassigned.rows[i];
    const uint64_t row_hash = keyed_hash(round_key, row);
    tally.count(state.graph, state.owner, row, static_cast<uint32_t>(row_hash >> 32),
                partition_rules::num_votes(state.is_stranded[row] != 0, max_votes), state.status);
    uint32_t votes[WarpTally::kPerLane], max_votes_cast = 0;
    BSE_UNROLL
    for (int k = 0; k < WarpTally::kPerLane; ++k) {
      votes[k] = tally.votes(k);
      if (votes[k] > 0 && room_of(state, tally.batch(k), round) == 0) votes[k] = 0;
      max_votes_cast = max(max_votes_cast, votes[k]);
    }
    max_votes_cast = __reduce_max_sync(kAllLanes, max_votes_cast);
    __syncwarp();  // all lanes have read is_stranded
    if (lane == 0) state.is_stranded[row] = max_votes_cast == 0 ? 1 : 0;
    if (max_votes_cast == 0) {
      if (lane == 0) put_nothing(state.groups, i);
      continue;
    }
    int32_t batch = partition_rules::kUnassigned;
    uint64_t hash = 0;
    BSE_UNROLL
    for (int k = 0; k < WarpTally::kPerLane; ++k) {
      if (votes[k] != max_votes_cast) continue;
      const uint64_t own_hash = partition_rules::choice_hash(row_hash, tally.batch(k));
      if (batch >= 0 && own_hash <= hash) continue;
      batch = tally.batch(k);
      hash = own_hash;
    }
    const bool is_chosen = warp_max(hash) == hash && batch >= 0;
    if (is_chosen) {
      put(state.groups, i, partition_rules::proposal_rank(row_hash, max_votes_cast), row, static_cast<uint32_t>(batch));
    }
  }
}

// One block per batch accepts the best proposals, up to the batch's room. Accepted rows no longer count as random
// fills, unless they only return to their former batch.
__global__ void accept_kernel(PartitionState state, uint32_t round, bool are_returning) {
  for (int64_t batch = blockIdx.x; batch < state.sizes.num_batches; batch += gridDim.x) {
    const uint32_t begin = state.groups.begins[batch], num_proposals = state.groups.begins[batch + 1] - begin;
    const uint32_t num_accepted = min(num_proposals, room_of(state, static_cast<int32_t>(batch), round));
    if (num_accepted == 0) continue;
    const Member* const proposals = state.groups.members + begin;
    MemberPrefix prefix;
    if (num_accepted < num_proposals) prefix = select(proposals, num_proposals, num_accepted);
    for_members(proposals, num_proposals, [&](const Member& proposal) {
      if (!prefix.covers(proposal)) return;
      state.owner[proposal.value] = static_cast<int32_t>(batch);
      if (!are_returning) state.is_filled[proposal.value] = 0;
    });
    __syncthreads();  // all threads have read the free places
    if (threadIdx.x == 0) state.num_free[batch] -= num_accepted;
  }
}

}  // namespace bse::cuda

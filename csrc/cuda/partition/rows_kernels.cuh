// Kernels that start a partition, list unassigned rows, eject rows from batches, and return them. One thread per row,
// except for prefers_another_kernel, which uses one warp per row.
#pragma once

#include <cstdint>

#include "common/permutation.h"
#include "cuda/partition/state.cuh"
#include "cuda/primitives/warp_tally.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

__global__ void begin_kernel(PartitionState state, KeyedPermutation permutation) {
  for (int64_t i = thread_index(); i < state.sizes.num_rows; i += num_threads()) {
    const uint32_t row = permutation(static_cast<uint32_t>(i));
    state.order[i] = row;
    state.owner[row] = i < state.sizes.num_assigned ? partition_rules::kUnassigned : partition_rules::kLeftOut;
    state.is_stranded[i] = state.is_filled[i] = 0;
    state.claims[i] = kNoClaim;
    if (i < state.sizes.num_batches) state.num_free[i] = static_cast<uint32_t>(state.sizes.capacity(i));
  }
  if (thread_index() != 0) return;
  state.counters[kNumRows] = static_cast<uint64_t>(state.sizes.num_rows);
  state.counters[kNumBatches] = static_cast<uint64_t>(state.sizes.num_batches);
  state.counters[kNumFullBatches] = static_cast<uint64_t>(state.sizes.num_full());
}

// Lists the rows of `from` that are unassigned.
__global__ void list_unassigned_kernel(PartitionState state, RowList from, RowList unassigned) {
  append_if(num_rows_of(from), unassigned, [&](int64_t i, uint32_t* row) {
    *row = row_at(from, i);
    return state.owner[*row] == partition_rules::kUnassigned;
  });
}

// Marks all places of `batches` as free. batches: [min(max_batches, counter kNumCandidates)]
__global__ void empty_batches_kernel(PartitionState state, const uint32_t* batches, int64_t max_batches) {
  const int64_t num_batches = min(max_batches, static_cast<int64_t>(state.counters[kNumCandidates]));
  for (int64_t i = thread_index(); i < num_batches; i += num_threads()) {
    state.num_free[batches[i]] = static_cast<uint32_t>(state.sizes.capacity(batches[i]));
  }
}

// Unassigns rows whose batch was emptied, and lists all unassigned rows.
__global__ void dissolve_kernel(PartitionState state, RowList unassigned) {
  append_if(state.sizes.num_rows, unassigned, [&](int64_t i, uint32_t* row) {
    *row = static_cast<uint32_t>(i);
    const int32_t batch = state.owner[i];
    if (batch < 0) return batch == partition_rules::kUnassigned;
    if (state.num_free[batch] != state.sizes.capacity(batch)) return false;
    state.owner[i] = partition_rules::kUnassigned;
    return true;
  });
}

// Lists the assigned rows whose hash is 0 in the bits of `mask`.
__global__ void pick_kernel(PartitionState state, uint64_t key, uint32_t mask, RowList picked) {
  append_if(state.sizes.num_rows, picked, [&](int64_t i, uint32_t* row) {
    *row = static_cast<uint32_t>(i);
    return (keyed_hash(key, *row) & mask) == 0 && state.owner[i] >= 0;
  });
}

// Tells for each picked row whether another batch has more of its neighbors than its own. One warp per row.
__global__ void __launch_bounds__(kTallyThreads, kTallyBlocks)
    prefers_another_kernel(PartitionState state, uint64_t key, RowList picked,
                           uint32_t* is_leaving /* [number of picked] */) {
  BSE_SHARED(int32_t, batches, [kTallyWarps][WarpTally::kNumSlots]);
  BSE_SHARED(uint32_t, votes, [kTallyWarps][WarpTally::kNumSlots]);
  const unsigned warp = threadIdx.x / 32;
  WarpTally tally(batches[warp], votes[warp]);
  const int64_t num_picked = num_rows_of(picked);
  for (int64_t i = thread_index() / 32; i < num_picked; i += num_threads() / 32) {
    const uint32_t row = picked.rows[i];
    const int32_t own_batch = state.owner[row];
    tally.count(state.graph, state.owner, row, static_cast<uint32_t>(keyed_hash(key, row) >> 32),
                partition_rules::kMaxVotes, state.status);
    uint32_t own_votes = 0, max_votes_cast = 0;
    BSE_UNROLL
    for (int k = 0; k < WarpTally::kPerLane; ++k) {
      max_votes_cast = max(max_votes_cast, tally.votes(k));
      if (tally.batch(k) == own_batch) own_votes = max(own_votes, tally.votes(k));
    }
    own_votes = __reduce_max_sync(kAllLanes, own_votes);
    max_votes_cast = __reduce_max_sync(kAllLanes, max_votes_cast);
    if (threadIdx.x % 32 == 0) is_leaving[i] = max_votes_cast > own_votes ? 1 : 0;
  }
}

// Ejects picked rows from their batches and appends them to the unassigned.
// is_leaving: [number of picked] flags, or null if all leave
__global__ void eject_kernel(PartitionState state, RowList picked, const uint32_t* is_leaving, RowList unassigned) {
  append_if(num_rows_of(picked), unassigned, [&](int64_t i, uint32_t* row) {
    if (is_leaving != nullptr && is_leaving[i] == 0) return false;
    *row = picked.rows[i];
    const int32_t batch = state.owner[*row];
    state.former[*row] = batch;
    state.owner[*row] = partition_rules::kUnassigned;
    atomicAdd(&state.num_free[batch], 1u);
    return true;
  });
}

// Each unassigned row proposes to the batch that it left last. Batches take lower rows first.
__global__ void propose_former_kernel(PartitionState state, RowList unassigned) {
  const int64_t num_rows = num_rows_of(unassigned);
  for (int64_t i = thread_index(); i < num_rows; i += num_threads()) {
    const uint32_t row = unassigned.rows[i];
    put(state.groups, i, uint64_t{row} << 32, row, static_cast<uint32_t>(state.former[row]));
  }
}

}  // namespace bse::cuda

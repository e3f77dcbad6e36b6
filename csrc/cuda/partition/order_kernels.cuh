// The sorts of a partition: rows in hash order (for new roots and random fills), batches by free places, full batches
// in hash order, rows by batch (for the result). One thread per item.
//
// All use the same method (grouping.cuh): items are put into small groups that ascend with the key (order_groups.h),
// and are then ranked within their groups.
#pragma once

#include <cstdint>

#include "cuda/partition/order_groups.h"
#include "cuda/partition/state.cuh"

namespace bse::cuda {

__global__ void put_row_hashes_kernel(PartitionState state, RowList list, uint64_t key, int log_groups) {
  const int64_t num_rows = num_rows_of(list);
  for (int64_t i = thread_index(); i < num_rows; i += num_threads()) {
    const uint32_t row = list.rows[i];
    const uint64_t hash = keyed_hash(key, row);
    put(state.groups, i, hash, row, static_cast<uint32_t>(hash >> (64 - log_groups)));
  }
}

// Puts the full batches.
__global__ void put_batch_hashes_kernel(PartitionState state, uint64_t key, int log_groups) {
  for (int64_t batch = thread_index(); batch < state.sizes.num_full(); batch += num_threads()) {
    const uint64_t hash = keyed_hash(key, static_cast<uint64_t>(batch));
    put(state.groups, batch, hash, static_cast<uint32_t>(batch), static_cast<uint32_t>(hash >> (64 - log_groups)));
  }
}

__global__ void put_emptiness_kernel(PartitionState state, EmptinessGroups emptiness, bool only_open) {
  for (int64_t batch = thread_index(); batch < state.sizes.num_batches; batch += num_threads()) {
    const uint32_t num_free = state.num_free[batch];
    if (only_open && num_free == 0) {
      put_nothing(state.groups, batch);
    } else {
      put(state.groups, batch, static_cast<uint64_t>(batch), static_cast<uint32_t>(batch),
          emptiness.group(batch, num_free));
    }
  }
}

__global__ void put_owners_kernel(PartitionState state, BatchGroups by_batch) {
  BSE_SHARED(uint32_t, warp_sums, [kListThreads / 32 + 1]);
  uint32_t num_filled = 0, total;
  for (int64_t row = thread_index(); row < state.sizes.num_rows; row += num_threads()) {
    const int32_t batch = state.owner[row];
    num_filled += state.is_filled[row];
    if (batch >= 0) {
      put(state.groups, row, static_cast<uint64_t>(row), static_cast<uint32_t>(row), by_batch.group(row, batch));
    } else {
      put_nothing(state.groups, row);
    }
  }
  exclusive_sum(num_filled, warp_sums, &total);
  if (threadIdx.x == 0 && total > 0) atomicAdd(&state.counters[kNumFilled], uint64_t{total});
}

// Writes the values of ranks 0..count-1, fewer if there are fewer members. first: [count]
__global__ void take_first_kernel(PartitionState state, const uint64_t* num_members, int64_t count, uint32_t* first) {
  const auto num_ranked = static_cast<int64_t>(*num_members);
  for (int64_t i = thread_index(); i < num_ranked; i += num_threads()) {
    const uint32_t rank = rank_of(state.groups, i);
    if (rank < count) first[rank] = state.groups.members[i].value;
  }
}

// Writes the rank of each value. ranks: [number of values]
__global__ void rank_values_kernel(PartitionState state, uint32_t* ranks) {
  const auto num_members = static_cast<int64_t>(state.counters[kNumGrouped]);
  for (int64_t i = thread_index(); i < num_members; i += num_threads()) {
    ranks[state.groups.members[i].value] = rank_of(state.groups, i);
  }
}

// Random fill: the row of rank i takes the i-th free place, where places are counted batch by batch.
__global__ void fill_kernel(PartitionState state, const uint32_t* first_places /* [num_batches + 1] */) {
  const auto num_members = static_cast<int64_t>(state.counters[kNumGrouped]);
  for (int64_t i = thread_index(); i < num_members; i += num_threads()) {
    const uint32_t rank = rank_of(state.groups, i), row = state.groups.members[i].value;
    int64_t low = 0, high = state.sizes.num_batches - 1;  // finds the last batch with first_places[batch] <= rank
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (first_places[middle] <= rank) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    state.owner[row] = static_cast<int32_t>(low);
    state.is_filled[row] = 1;
  }
}

// Writes the full batches in the order of their ranks, then the ragged one. The members of batch b have the ranks from
// b * batch_size on.
__global__ void write_kernel(PartitionState state, const uint32_t* batch_ranks /* [num_full] */,
                             int32_t* nodes /* [num_assigned] */) {
  const auto num_members = static_cast<int64_t>(state.counters[kNumGrouped]);
  const int64_t num_full = state.sizes.num_full();
  for (int64_t i = thread_index(); i < num_members; i += num_threads()) {
    const uint32_t row = state.groups.members[i].value;
    const int64_t batch = state.owner[row], place = batch < num_full ? batch_ranks[batch] : num_full;
    const int64_t member = rank_of(state.groups, i) - batch * state.sizes.batch_size;
    nodes[place * state.sizes.batch_size + member] = static_cast<int32_t>(row);
  }
}

}  // namespace bse::cuda

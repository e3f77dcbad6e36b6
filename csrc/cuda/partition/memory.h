// The device memory of a partition, in one buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/partition_rules.h"
#include "cuda/partition/order_groups.h"
#include "cuda/partition/partition.h"
#include "cuda/partition/state.cuh"
#include "cuda/runtime/scratch.h"

namespace bse::cuda {

inline PartitionSizes partition_sizes(const PartitionRequest& request) {
  return {request.graph.num_rows, request.batch_size, request.drop_last};
}

// Largest number of groups that rows or batches are grouped into.
inline int64_t max_partition_groups(const PartitionSizes& sizes) {
  return std::max({sizes.num_batches, int64_t{1} << hash_log_groups(sizes.num_rows),
                   EmptinessGroups(sizes).num_groups(), BatchGroups(sizes).num_groups()});
}

// All device memory of a partition, about 68 bytes per row. If the buffer is null, only num_bytes is computed.
struct PartitionMemory {
  PartitionState state{};
  RowList lists[2];
  uint32_t* selected_batches;  // [num_batches]
  uint32_t* selected_roots;    // [num_batches]
  uint32_t* found;             // [num_batches, kSeedSize]
  uint32_t* batch_values;      // [num_batches + 1] index of a batch's first free place; later ranks of full batches
  size_t num_bytes;

  PartitionMemory(const PartitionRequest& request, void* buffer, uint64_t* status) {
    const PartitionSizes sizes = partition_sizes(request);
    const int64_t num_rows = sizes.num_rows, num_batches = sizes.num_batches;
    Scratch scratch(buffer);
    state.graph = request.graph;
    state.sizes = sizes;
    state.seed = request.seed;
    state.epoch = request.epoch;
    state.restart_threshold = request.restart_threshold;
    state.status = status;
    state.order = scratch.take<uint32_t>(num_rows);
    state.owner = scratch.take<int32_t>(num_rows);
    state.former = scratch.take<int32_t>(num_rows);
    state.is_stranded = scratch.take<uint8_t>(num_rows);
    state.is_filled = scratch.take<uint8_t>(num_rows);
    state.num_free = scratch.take<uint32_t>(num_batches);
    state.claims = scratch.take<uint64_t>(num_rows);
    state.counters = scratch.take<uint64_t>(kNumCounters);
    state.groups.items = scratch.take<Member>(num_rows);
    state.groups.slots = scratch.take<uint32_t>(num_rows);
    state.groups.sizes = scratch.take<uint32_t>(max_partition_groups(sizes));
    state.groups.begins = scratch.take<uint32_t>(max_partition_groups(sizes) + 1);
    state.groups.chunk_sums = scratch.take<uint32_t>(kMaxChunks);
    state.groups.members = scratch.take<Member>(num_rows);
    for (int i = 0; i < 2; ++i) lists[i].rows = scratch.take<uint32_t>(num_rows);
    selected_batches = scratch.take<uint32_t>(num_batches);
    selected_roots = scratch.take<uint32_t>(num_batches);
    found = scratch.take<uint32_t>(num_batches * partition_rules::kSeedSize);
    batch_values = scratch.take<uint32_t>(num_batches + 1);
    num_bytes = scratch.num_bytes();
    if (buffer == nullptr) return;
    lists[0].num_rows = state.counters + kNumListed0;
    lists[1].num_rows = state.counters + kNumListed1;
  }
};

}  // namespace bse::cuda

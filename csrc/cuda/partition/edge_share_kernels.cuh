// Edge shares (csrc/common/edge_share.h): counts neighbors, and neighbors in the same batch. One warp per measured row.
// The counts are sums of integers, so the order of additions does not matter.
#pragma once

#include <cstdint>

#include "cuda/partition/state.cuh"
#include "cuda/runtime/report.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Adds up the counts of the rows that a warp measures.
class WarpEdgeShare {
 public:
  // Counts the first kMaxVotes neighbors of the row. is_mate(neighbor): whether it is in the same batch
  template <class IsMate>
  BSE_DEVICE void add(const PartitionState& state, uint32_t row, const IsMate& is_mate) {
    const uint32_t num_asked = min(degree_of(state.graph, row), partition_rules::kMaxVotes);
    num_asked_ += num_asked;
    for (uint32_t begin = 0; begin < num_asked; begin += 32) {
      const uint32_t place = begin + threadIdx.x % 32;
      bool is_inside = false;
      if (place < num_asked) {
        const Neighbor neighbor = neighbor_of(state.graph, row, place);
        if (neighbor.is_row) {
          is_inside = is_mate(neighbor.row);
        } else {
          report(state.status, StatusKind::kNeighborNotARow, row, static_cast<uint32_t>(neighbor.id));
        }
      }
      num_inside_ += static_cast<uint32_t>(__popc(__ballot_sync(kAllLanes, is_inside)));
    }
  }

  BSE_DEVICE void finish(const PartitionState& state) const {
    if (threadIdx.x % 32 != 0 || num_asked_ == 0) return;
    atomicAdd(&state.counters[kNumInside], num_inside_);
    atomicAdd(&state.counters[kNumAsked], num_asked_);
  }

 private:
  uint64_t num_inside_ = 0, num_asked_ = 0;
};

// Edge share of the partition, measured at the last assigned rows of the order, because many of the first are roots.
__global__ void edge_share_kernel(PartitionState state) {
  WarpEdgeShare share;
  const int64_t end = state.sizes.num_assigned, first = max(int64_t{0}, end - partition_rules::kNumMeasured);
  for (int64_t i = first + thread_index() / 32; i < end; i += num_threads() / 32) {
    const uint32_t row = state.order[i];
    const int32_t batch = state.owner[row];
    share.add(state, row, [&](uint32_t neighbor) { return state.owner[neighbor] == batch; });
  }
  share.finish(state);
}

// Marks the members of up to 64 walks: bit w of a row's word in `claims`, which is free at this time, stands for walk
// w. Nodes that are no rows are skipped; a walk on a bad neighbor table may have them.
__global__ void mark_walks_kernel(PartitionState state, const int32_t* walk_nodes /* [num_instances] */,
                                  int64_t num_instances) {
  for (int64_t i = thread_index(); i < num_instances; i += num_threads()) {
    const auto row = static_cast<uint32_t>(walk_nodes[i]);
    if (row < state.sizes.num_rows) atomicOr(&state.claims[row], uint64_t{1} << (i / state.sizes.batch_size));
  }
}

// Edge share of walks, measured at every `stride`-th member.
__global__ void walk_edge_share_kernel(PartitionState state, const int32_t* walk_nodes /* [num_walks, batch_size] */,
                                       int64_t num_walks, int64_t stride) {
  WarpEdgeShare share;
  const int64_t num_members = (state.sizes.batch_size + stride - 1) / stride;
  for (int64_t i = thread_index() / 32; i < num_walks * num_members; i += num_threads() / 32) {
    const int64_t walk = i / num_members, member = i % num_members * stride;
    const auto row = static_cast<uint32_t>(walk_nodes[walk * state.sizes.batch_size + member]);
    if (row >= state.sizes.num_rows) continue;
    share.add(state, row, [&](uint32_t neighbor) { return (state.claims[neighbor] >> walk & 1) != 0; });
  }
  share.finish(state);
}

}  // namespace bse::cuda

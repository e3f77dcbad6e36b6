// One warp counts how many out-neighbors of a row are in each batch. The CPU counterpart is
// csrc/cpu/partition/vote_tally.h.
//
// There are up to kMaxVotes neighbors, kPerLane in each lane. __match_any_sync counts equal batches among 32 neighbors.
// With more neighbors, these counts are added up in an open-addressing hash table in shared memory, at load <= 1/2. No
// memory per batch is needed.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"
#include "cuda/primitives/graph_view.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/report.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Block size of kernels with a warp per row. kTallyBlocks blocks per multiprocessor hide the latency of reading owners.
constexpr int kTallyWarps = 8, kTallyThreads = 32 * kTallyWarps, kTallyBlocks = 6;

BSE_DEVICE uint64_t warp_max(uint64_t value) {
  const auto high = static_cast<uint32_t>(value >> 32);
  const uint32_t max_high = __reduce_max_sync(kAllLanes, high);
  const uint32_t max_low = __reduce_max_sync(kAllLanes, high == max_high ? static_cast<uint32_t>(value) : 0u);
  return uint64_t{max_high} << 32 | max_low;
}

class WarpTally {
 public:
  static constexpr int kPerLane = partition_rules::kMaxVotes / 32;
  static constexpr uint32_t kNumSlots = 2 * partition_rules::kMaxVotes;

  // batches, votes: [kNumSlots] in shared memory, of this warp alone
  BSE_DEVICE WarpTally(int32_t* batches, uint32_t* votes)
      : table_batches_(batches), table_votes_(votes), lane_(threadIdx.x % 32) {
    for (uint32_t slot = lane_; slot < kNumSlots; slot += 32) clear(slot);
    __syncwarp();
  }

  // Counts the votes of `num_asked` (at most kMaxVotes) out-neighbors, or of all if there are fewer. They are
  // consecutive (cyclically) from neighbor mulhi(offset_word, degree) on. A neighbor that is no row is reported and has
  // no vote. All lanes call it together. owner: [num_rows] batch, or negative: no vote
  BSE_DEVICE void count(const GraphView& graph, const int32_t* owner, uint32_t row, uint32_t offset_word,
                        uint32_t num_asked, uint64_t* status) {
    const uint32_t degree = degree_of(graph, row), first = mulhi(offset_word, degree);
    num_asked = min(num_asked, degree);
    BSE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      const uint32_t place = 32 * static_cast<uint32_t>(i) + lane_;
      batches_[i] = kNone;
      votes_[i] = 0;
      if (place >= num_asked) continue;
      const uint32_t unwrapped = first + place;
      const Neighbor neighbor = neighbor_of(graph, row, unwrapped < degree ? unwrapped : unwrapped - degree);
      if (neighbor.is_row) {
        batches_[i] = max(owner[neighbor.row], kNone);
      } else {
        report(status, StatusKind::kNeighborNotARow, row, static_cast<uint32_t>(neighbor.id));
      }
    }
    if (num_asked <= 32) {
      const unsigned equal = __match_any_sync(kAllLanes, batches_[0]);
      if (stands_for(equal, batches_[0])) votes_[0] = static_cast<uint32_t>(__popc(equal));
    } else {
      add_up(num_asked);
    }
  }

  // Each batch with votes is batch(i) of exactly one lane and one i < kPerLane with votes(i) > 0. All other votes(i)
  // are 0.
  BSE_DEVICE int32_t batch(int i) const { return batches_[i]; }
  BSE_DEVICE uint32_t votes(int i) const { return votes_[i]; }

 private:
  static constexpr int32_t kNone = -1;

  BSE_DEVICE void clear(uint32_t slot) {
    table_batches_[slot] = kNone;
    table_votes_[slot] = 0;
  }

  // Returns whether this lane is the lowest of the lanes `equal`, which have the same batch.
  BSE_DEVICE bool stands_for(unsigned equal, int32_t batch) const {
    return batch != kNone && lane_ + 1 == static_cast<uint32_t>(__ffs(static_cast<int>(equal)));
  }

  BSE_DEVICE void add_up(uint32_t num_asked) {
    uint32_t slots[kPerLane];  // slot that this lane took for a new batch, or kNumSlots
    BSE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      slots[i] = kNumSlots;
      if (32 * static_cast<uint32_t>(i) >= num_asked) continue;
      const unsigned equal = __match_any_sync(kAllLanes, batches_[i]);
      if (stands_for(equal, batches_[i])) slots[i] = add(batches_[i], static_cast<uint32_t>(__popc(equal)));
    }
    __syncwarp();
    BSE_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      if (slots[i] == kNumSlots) continue;
      votes_[i] = table_votes_[slots[i]];
      clear(slots[i]);
    }
    __syncwarp();
  }

  BSE_DEVICE uint32_t add(int32_t batch, uint32_t votes) {
    for (uint32_t slot = (static_cast<uint32_t>(batch) * 2654435761u) >> 24;; slot = (slot + 1) % kNumSlots) {
      const int32_t found = atomicCAS(&table_batches_[slot], kNone, batch);
      if (found != kNone && found != batch) continue;
      atomicAdd(&table_votes_[slot], votes);
      return found == kNone ? slot : kNumSlots;
    }
  }

  int32_t* const table_batches_;
  uint32_t* const table_votes_;
  const uint32_t lane_;
  int32_t batches_[kPerLane];
  uint32_t votes_[kPerLane];
};

}  // namespace bse::cuda

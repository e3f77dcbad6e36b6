// Seed walks: from the root of each batch, a walk collects up to kSeedSize unassigned rows. A row that several walks
// found goes to the smallest claim. One thread per batch, because walks are short and their steps depend on each other.
#pragma once

#include <cstdint>

#include "cuda/partition/state.cuh"
#include "cuda/runtime/report.cuh"

namespace bse::cuda {

struct Seeds {
  const uint32_t* batches;  // [num_seeds], or null: seed i is of batch i
  const uint32_t* roots;    // [num_seeds]
  int64_t max_seeds;        // num_seeds = min(max_seeds, counter kNumCandidates)
  uint32_t stage;
  uint64_t claim_key;
  uint32_t* found;  // [num_seeds, kSeedSize] rows, then kNoRow
};

constexpr uint32_t kNoRow = 0xFFFFFFFFu;

BSE_DEVICE int64_t num_seeds(const PartitionState& state, const Seeds& seeds) {
  return min(seeds.max_seeds, static_cast<int64_t>(state.counters[kNumCandidates]));
}

BSE_DEVICE uint32_t seeded_batch(const Seeds& seeds, int64_t i) {
  return seeds.batches != nullptr ? seeds.batches[i] : static_cast<uint32_t>(i);
}

__global__ void seed_walk_kernel(PartitionState state, Seeds seeds) {
  using namespace partition_rules;
  const int64_t count = num_seeds(state, seeds);
  for (int64_t i = thread_index(); i < count; i += num_threads()) {
    const uint32_t batch = seeded_batch(seeds, i);
    const SegmentWords words(state.seed, Purpose::kPartitionWalk, state.epoch, batch, seeds.stage);
    const uint32_t limit = min(kSeedSize, state.num_free[batch]);
    uint32_t found[kSeedSize];
    const uint32_t num_found = seed_walk(
        words, seeds.roots[i], limit, state.restart_threshold,
        [&](uint32_t row) { return degree_of(state.graph, row); },
        [&](uint32_t row, uint32_t k) {
          const Neighbor neighbor = neighbor_of(state.graph, row, k);
          if (neighbor.is_row) return neighbor.row;
          report(state.status, StatusKind::kNeighborNotARow, row, static_cast<uint32_t>(neighbor.id));
          return row;
        },
        [&](uint32_t row) { return state.owner[row] == kUnassigned; }, found);
    for (uint32_t position = 0; position < kSeedSize; ++position) {
      const uint32_t row = position < num_found ? found[position] : kNoRow;
      seeds.found[i * kSeedSize + position] = row;
      if (row != kNoRow) atomicMin(&state.claims[row], seed_claim(seeds.claim_key, position, row, batch));
    }
  }
}

// Assigns each found row to the batch of its smallest claim, and clears the claim.
__global__ void resolve_claims_kernel(PartitionState state, Seeds seeds) {
  using namespace partition_rules;
  const int64_t count = num_seeds(state, seeds);
  for (int64_t i = thread_index(); i < count; i += num_threads()) {
    const uint32_t batch = seeded_batch(seeds, i);
    uint32_t num_won = 0;
    for (uint32_t position = 0; position < kSeedSize; ++position) {
      const uint32_t row = seeds.found[i * kSeedSize + position];
      if (row == kNoRow) break;
      const uint64_t claim = seed_claim(seeds.claim_key, position, row, batch);
      if (atomicCAS(&state.claims[row], claim, kNoClaim) != claim) continue;
      state.owner[row] = static_cast<int32_t>(batch);
      ++num_won;
    }
    state.num_free[batch] -= num_won;
  }
}

}  // namespace bse::cuda

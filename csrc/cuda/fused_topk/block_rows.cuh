// The rows of a group that one thread block takes, in static shared memory. Holds ids, norms, the column that each row
// drops, and which rows need exact scores.
#pragma once

#include "common/hash.h"
#include "common/prefilter_bound.h"
#include "cuda/fused_topk/quantized_score.cuh"
#include "cuda/runtime/device.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

template <int kRows>
struct BlockRows {
  static constexpr uint32_t kNumSlots = 4 * kRows, kFree = ~0u;

  uint32_t graph_rows[kRows], ids[kRows];
  float norms[kRows];
  uint32_t dropped[kRows];        // the column a row drops: itself, or else the last one
  uint32_t slots[kNumSlots];      // hash table from subset row to index in this block
  uint32_t needing_exact[kRows];  // indices of rows that quantized scores cannot decide, num_needing_exact of them
  uint32_t num_needing_exact;
  uint32_t is_unbounded[kRows];

  // Loads which rows these are. first: position of the block's first row. A barrier must follow.
  BSE_DEVICE void load_ids(const ScoreBlock& block, int64_t first, int num_rows) {
    for (unsigned s = threadIdx.x; s < kNumSlots; s += blockDim.x) slots[s] = kFree;
    if (threadIdx.x == 0) num_needing_exact = 0;
    for (int i = threadIdx.x; i < num_rows; i += blockDim.x) {
      const int64_t row = block.query_row(first + i);
      graph_rows[i] = static_cast<uint32_t>(row);
      ids[i] = static_cast<uint32_t>(block.query_id(row));
      dropped[i] = static_cast<uint32_t>(block.num_candidates - 1);
    }
  }

  // Fills the rest, after that barrier. Another one must follow.
  BSE_DEVICE void load_norms(const ScoreBlock& block, int num_rows) {
    for (int i = threadIdx.x; i < num_rows; i += blockDim.x) {
      norms[i] = block.query_norms[graph_rows[i]];
      is_unbounded[i] = !has_prefilter_bound(norms[i]);
      uint32_t slot = mix32(graph_rows[i]) % kNumSlots;
      while (atomicCAS(&slots[slot], kFree, static_cast<uint32_t>(i)) != kFree) slot = (slot + 1) % kNumSlots;
    }
  }

  // If the candidate is one of the rows, makes its column the one that this row drops. Call it once per candidate,
  // between two barriers.
  BSE_DEVICE void drop_if_itself(uint32_t graph_row, uint32_t column) {
    for (uint32_t slot = mix32(graph_row) % kNumSlots; slots[slot] != kFree; slot = (slot + 1) % kNumSlots) {
      if (graph_rows[slots[slot]] != graph_row) continue;
      dropped[slots[slot]] = column;
      return;
    }
  }
};

}  // namespace bse::cuda

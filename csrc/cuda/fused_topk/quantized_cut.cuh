// Finds the best `rank` columns of a row of quantized scores, as far as these can tell, with one warp.
//
// Let T be the rank-th largest quantized score and w the window. If quantized scores differ by more than w, exact
// scores are in the same order (quantized_score.cuh). A candidate above T + w is certainly among the best: only
// candidates above T could be better, and these are fewer than `rank`. One below T - w certainly is not: `rank`
// candidates reach T, and all of them are better. Candidates in between are close. If only `rank` candidates reach
// T - w, the close ones are among the best too. Otherwise exact scores decide between them.
//
// T is found bit by bit, the highest first, with one count per bit. `tied` are the columns whose higher bits are those
// of T, and T is the num_wanted-th largest of their scores. If at least num_wanted of them have the next bit, so has T,
// and the others are below T. Otherwise those with the bit are above T.
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/types/tuning.h"

namespace bse::cuda {

template <int kParts>
struct QuantizedCut {
  ColumnSet<kParts> best, close;
  uint32_t num_close, num_wanted;  // of the close columns, num_wanted < num_close are among the best; 0: none is close
};

// rank: at least 1
template <int kParts>
BSE_DEVICE QuantizedCut<kParts> cut_after(const QuantizedRow<kParts>& row, uint32_t rank, uint32_t window) {
  ColumnSet<kParts> above{}, tied = ColumnSet<kParts>::all();
  uint32_t threshold = 0, num_wanted = rank;
  BSE_UNROLL
  for (int b = kQuantizedBits - 1; b >= 0; --b) {
    const ColumnSet<kParts> found = row.with_bit(tied, b);
    const uint32_t num_found = found.size();
    if (num_found >= num_wanted) {
      threshold |= 1u << b;
      tied = found;
    } else {
      num_wanted -= num_found;
      above = above.with(found);
      tied = tied.without(found);
    }
  }
  if (threshold == 0) return {above, {}, 0, 0};  // fewer than `rank` candidates are allowed
  const ColumnSet<kParts> wide = row.at_least(threshold > window ? threshold - window : 1u);
  const uint32_t num_wide = wide.size();
  if (num_wide == rank) return {wide, {}, 0, 0};
  const ColumnSet<kParts> best = row.at_least(min(threshold + window + 1, kMaxQuantized));
  const uint32_t num_best = best.size();
  return {best, wide.without(best), num_wide - num_best, rank - num_best};
}

}  // namespace bse::cuda

// Selects edges from the rows of a score matrix, one row per thread block (row_topk.cuh).
//
// If scores are approximate, let e = margin / 2 bound their error, and let T be the K-th best of them. A candidate
// above T + 2 e is certainly in the exact top K: any better one is above T, and fewer than K candidates are. One below
// T - 2 e certainly is not: K candidates have exact scores of at least T - e. Candidates in between get exact scores,
// unless all of them are kept.
#pragma once

#include "common/score.h"
#include "cuda/matrix_topk/score_tile.cuh"
#include "cuda/primitives/block_scan.cuh"
#include "cuda/primitives/exact_dot.cuh"
#include "cuda/primitives/row_topk.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// Drops the last candidate of a row that is not among its own candidates.
template <class Row>
BSE_DEVICE void exclude_last(Row& row) {
  int has_itself = 0;
  row.for_each([&](int64_t, const float& score) { has_itself |= int{__float_as_uint(score) == kItselfBits}; });
  if (__syncthreads_or(has_itself) != 0) return;
  row.template for_each<true>([&](int64_t c, float& score) {
    if (c == row.num_columns() - 1) score = Row::excluded();
  });
}

// Turns approximate scores into ones with the exact top K. Certain members become infinite, certain non-members NaN.
// The others get exact scores, unless all of them are kept.      r: row of the score matrix
template <class Row>
BSE_DEVICE void rescore_borderline(Row& row, const ScoreBlock& block, int64_t r, SelectScratch& scratch) {
  const auto num_edges = static_cast<uint32_t>(block.selection.num_neighbors);
  const RankBound last = bound_after(row, num_edges - 1, scratch);
  if (last.key == 0xFFFFFFFFu) return;  // fewer than K candidates: all are kept
  const double threshold = from_ordered_bits(~last.key);
  uint32_t num_above = 0, num_between = 0, total_above, total_between;
  row.template for_each<true>([&](int64_t, float& score) {
    if (!Row::has_rank(score)) return;
    if (score > threshold + block.margin) {
      score = __uint_as_float(0x7F800000u);
      ++num_above;
    } else if (score < threshold - block.margin) {
      score = Row::excluded();
    } else {
      ++num_between;
    }
  });
  exclusive_sum(num_above, scratch.sums, &total_above);
  exclusive_sum(num_between, scratch.sums, &total_between);
  if (total_above + total_between <= num_edges) return;
  const int64_t group = r / block.rows_per_group, query_row = block.query_row(block.first_row + r);
  row.template for_each<true>([&](int64_t c, float& score) {
    if (!Row::has_rank(score) || score == __uint_as_float(0x7F800000u)) return;
    const int64_t base_row = block.candidate_row(group, c);
    const float dot = exact_dot(bfloat16_row(block.queries, block.query_id(query_row)),
                                bfloat16_row(block.base, block.base_id(base_row)), block.queries.dim);
    score = finish_score(block.selection.metric, dot, block.query_norms[query_row], block.base_norms[base_row]);
  });
}

// Seven or five blocks per multiprocessor: by default ptxas spills a few registers to fit more.
// scores: [block.num_rows, block.num_candidates]      sort_buffers: [gridDim.x, sort_length] or null
template <int kItems, bool kIsHeld>
__global__ void __launch_bounds__(kSelectThreads, kIsHeld ? 7 : 5)
    select_kernel(ScoreBlock block, SelectPlan plan, float* scores, Edges edges, uint64_t* sort_buffers) {
  using Row = ScoreRow<kItems, kIsHeld>;
  BSE_SHARED(SelectScratch, scratch);
  device::SharedMemory shared;
  uint64_t* ranks = plan.sort_is_shared ? shared.take<uint64_t>(plan.sort_length)
                                        : sort_buffers + size_t{blockIdx.x} * plan.sort_length;
  const bool has_approximate_scores = is_prefiltered(block);
  for (int64_t r = blockIdx.x; r < block.num_rows; r += gridDim.x) {
    Row row(scores + r * block.num_candidates, block.num_candidates);
    if (plan.excludes_last) exclude_last(row);
    if (has_approximate_scores) rescore_borderline(row, block, r, scratch);
    select_edges(row, block, plan, r, edges, ranks, scratch);
  }
}

}  // namespace bse::cuda

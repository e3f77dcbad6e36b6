// Top-k of rows that share their candidates: scores and selects in one kernel. Quantized scores stay in shared memory.
// Features are bfloat16, scores are cosines.
//
// A thread block takes some rows of one group and computes their quantized scores by tensor cores (products.cuh). Then
// each warp takes a row at a time. It cuts the row at ranks range_min and range_min + K (quantized_cut.cuh). Columns
// too close to a cut get exact scores (rescore.cuh). The edges between the two cuts are written in column order.
// If a row has more than tuning::kMaxClose close columns, or the error bound fails for it or for a candidate, the whole
// block computes exact scores of all its columns. It then selects the edges as from a row of a score matrix.
// O(candidates D) per row.
#pragma once

#include "cuda/fused_topk/products.cuh"
#include "cuda/fused_topk/rescore.cuh"
#include "cuda/primitives/exact_dot.cuh"
#include "cuda/primitives/row_topk.cuh"

namespace bse::cuda {

// The rows of the thread block. grid: blocks of a group are adjacent, so that they share its candidates in L2.
struct BlockRange {
  int64_t group, row_begin;  // row_begin: relative to block.first_row
  int num_rows;              // <= 0: nothing to do

  BSE_DEVICE BlockRange(const ScoreBlock& block, int fused_rows) {
    const auto blocks_per_group = static_cast<unsigned>((block.rows_per_group + fused_rows - 1) / fused_rows);
    group = blockIdx.x / blocks_per_group;
    row_begin = group * block.rows_per_group + int64_t{blockIdx.x % blocks_per_group} * fused_rows;
    int64_t end = (group + 1) * block.rows_per_group;
    if (end > block.num_rows) end = block.num_rows;
    num_rows = static_cast<int>(end - row_begin < fused_rows ? end - row_begin : fused_rows);
  }
};

// Loads ids and norms of rows and candidates, and finds the column that each row drops. Starts copying the rows and the
// first slice as soon as their ids are known. Returns whether the error bound fails for a candidate. Ends with a
// barrier.
template <class Shape>
BSE_DEVICE bool load_block(const ScoreBlock& block, const BlockRange& range, const BlockMemory<Shape>& memory,
                           BlockRows<Shape::kRows>& rows, CandidateSlices<Shape>& slices) {
  constexpr int kColumnsPerThread = Shape::kMaxColumns / Shape::kThreads;
  uint32_t candidates[kColumnsPerThread];  // subset rows of columns threadIdx.x + n * kThreads
  BSE_UNROLL
  for (int n = 0; n < kColumnsPerThread; ++n) {
    const int c = n * Shape::kThreads + threadIdx.x;
    if (c >= memory.num_columns) continue;
    candidates[n] = static_cast<uint32_t>(block.candidate_row(range.group, c));
    memory.base_ids[c] = static_cast<uint32_t>(block.base_id(candidates[n]));
  }
  rows.load_ids(block, block.first_row + range.row_begin, range.num_rows);
  __syncthreads();
  fetch_queries(block.queries, memory, rows, range.num_rows);
  slices.fetch();
  int is_unbounded = 0;
  BSE_UNROLL
  for (int n = 0; n < kColumnsPerThread; ++n) {
    const int c = n * Shape::kThreads + threadIdx.x;
    if (c >= memory.num_chunks * kChunkColumns) continue;
    const float norm = c < memory.num_columns ? block.base_norms[candidates[n]] : 0.0f;
    memory.base_norms[c] = norm;
    if (!has_prefilter_bound(norm)) is_unbounded = 1;
  }
  rows.load_norms(block, range.num_rows);
  __syncthreads();
  BSE_UNROLL
  for (int n = 0; n < kColumnsPerThread; ++n) {
    const int c = n * Shape::kThreads + threadIdx.x;
    if (c < memory.num_columns) rows.drop_if_itself(candidates[n], c);
  }
  return __syncthreads_or(is_unbounded) != 0;
}

// Excludes pairs of equal labels. Call it after a barrier; ends with one.
template <class Shape>
BSE_DEVICE void forbid_labels(const int64_t* labels, const BlockMemory<Shape>& memory,
                              const BlockRows<Shape::kRows>& rows, int num_rows) {
  for (int c = threadIdx.x; c < memory.num_columns; c += Shape::kThreads) {
    const int64_t label = labels[memory.base_ids[c]];
    for (int i = 0; label >= 0 && i < num_rows; ++i) {
      if (labels[rows.ids[i]] == label) forbid(memory.row(i), c);
    }
  }
  __syncthreads();
}

template <class Shape>
BSE_DEVICE float exact_score(const ScoreBlock& block, const BlockMemory<Shape>& memory,
                             const BlockRows<Shape::kRows>& rows, int i, uint32_t column) {
  const float dot = exact_dot(bfloat16_row(block.queries, rows.ids[i]),
                              bfloat16_row(block.base, memory.base_ids[column]), block.queries.dim);
  return finish_score(block.selection.metric, dot, rows.norms[i], memory.base_norms[column]);
}

// Selects the edges of one row with one warp. Returns false if quantized scores cannot decide which candidates are
// best.
template <class Shape>
BSE_DEVICE bool select_by_quantized_scores(const ScoreBlock& block, uint32_t window, const BlockMemory<Shape>& memory,
                                           const BlockRows<Shape::kRows>& rows, int i, const Edges& edges) {
  constexpr int kParts = Shape::kParts;
  const uint32_t lane = threadIdx.x % 32;
  const auto num_edges = static_cast<uint32_t>(block.selection.num_neighbors);
  uint16_t* const list = memory.list();
  if (rows.dropped[i] / kChunkColumns % 32 == lane) forbid(memory.row(i), rows.dropped[i]);  // by the lane that has it
  const QuantizedRow<kParts> row(memory.row(i), memory.num_chunks);
  const auto score = [&](uint32_t column) { return exact_score(block, memory, rows, i, column); };
  // Keeps the best range_min + K columns except the best range_min.
  const int64_t num_columns = memory.num_columns;
  const auto range_min = static_cast<uint32_t>(min(block.selection.range_min, num_columns));
  ColumnSet<kParts> kept{};
  for (int bound = range_min > 0 ? 0 : 1; bound < 2; ++bound) {
    const QuantizedCut<kParts> cut = cut_after(row, bound == 0 ? range_min : range_min + num_edges, window);
    if (cut.num_close > tuning::kMaxClose) return false;
    const ColumnSet<kParts> best = cut.num_close == 0 ? cut.best : rescore_close(cut, list, score);
    kept = best.without(kept);
  }
  const uint32_t num_kept =
      kept.for_each([&](uint32_t place, uint32_t column) { list[place] = static_cast<uint16_t>(column); });
  __syncwarp();
  int32_t* const neighbors = edges.neighbors + int64_t{rows.graph_rows[i]} * num_edges;
  for (uint32_t k = lane; k < num_edges; k += 32) {
    neighbors[k] = k < num_kept ? static_cast<int32_t>(memory.base_ids[list[k]]) : -1;
  }
  __syncwarp();  // the next row reuses the list
  return true;
}

// Selects the edges of one row by exact scores with the whole block.
template <class Shape>
BSE_DEVICE void select_by_exact_scores(const ScoreBlock& block, const BlockMemory<Shape>& memory,
                                       const BlockRows<Shape::kRows>& rows, int64_t row_begin, int i,
                                       const Edges& edges, SelectScratch& scratch) {
  const int64_t* const labels = block.selection.labels;
  const int64_t label = labels != nullptr ? labels[rows.ids[i]] : -1;
  for (int c = threadIdx.x; c < memory.num_columns; c += Shape::kThreads) {
    float score = exact_score(block, memory, rows, i, c);
    if (rows.dropped[i] == static_cast<uint32_t>(c) || (label >= 0 && labels[memory.base_ids[c]] == label)) {
      score = __uint_as_float(0x7FC00000u);
    }
    memory.exact_scores()[c] = score;
  }
  __syncthreads();
  ScoreRow<2, false, Shape::kThreads> row(memory.exact_scores(), memory.num_columns);
  select_edges(row, block, SelectPlan{}, row_begin + i, edges, nullptr, scratch);
  __syncthreads();  // the next row reuses the scores
}

// window: quantized_window()
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    fused_topk_kernel(ScoreBlock block, uint32_t window, Edges edges) {
  BSE_SHARED(BlockRows<Shape::kRows>, rows);
  BSE_SHARED(SelectScratch, scratch);
  const BlockMemory<Shape> memory(block.num_candidates, block.queries.dim);
  const BlockRange range(block, Shape::kRows);
  if (range.num_rows <= 0) return;  // the whole block returns
  CandidateSlices<Shape> slices(block.base, memory);
  const bool all_need_exact = load_block(block, range, memory, rows, slices);
  quantize_products(memory, rows, range.num_rows, slices);
  if (block.selection.labels != nullptr) forbid_labels(block.selection.labels, memory, rows, range.num_rows);

  for (int i = threadIdx.x / 32; i < range.num_rows; i += Shape::kWarps) {
    const bool needs_exact = all_need_exact || rows.is_unbounded[i] != 0;
    if (!needs_exact && select_by_quantized_scores(block, window, memory, rows, i, edges)) continue;
    if (threadIdx.x % 32 == 0) rows.needing_exact[atomicAdd(&rows.num_needing_exact, 1u)] = i;
  }
  __syncthreads();
  for (uint32_t n = 0; n < rows.num_needing_exact; ++n) {
    select_by_exact_scores(block, memory, rows, range.row_begin, static_cast<int>(rows.needing_exact[n]), edges,
                           scratch);
  }
}

}  // namespace bse::cuda

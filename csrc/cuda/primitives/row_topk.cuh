// Exact top-k of one row of scores by one block: a radix search for the K-th rank, then one pass that writes the edges.
//
// Rank is (score descending, column ascending). Columns are in draw order, or in order of ids for a kNN search. NaN has
// no rank. Each bound of the range takes up to four passes over the row, each a histogram of eight bits of the score.
// O(columns) per row, for any K and any number of columns. Ranks range_min .. range_min + K - 1 are kept, in column
// order or, with sorting, by score descending and then lower id.
#pragma once

#include "common/score.h"
#include "cuda/primitives/bitonic_sort.cuh"
#include "cuda/primitives/compaction.cuh"
#include "cuda/primitives/score_row.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// A position in the ranking. Before it are all scores with a smaller key, and the first num_equal scores with this key.
struct RankBound {
  uint32_t key;  // ScoreRow::sort_key()
  uint32_t num_equal;
};

// Shared memory of the selection.
struct SelectScratch {
  uint32_t histogram[256];
  uint32_t chosen[2];
  uint32_t sums[33];  // for exclusive_sum() of up to 32 warps
  uint32_t counts[32];
};

// Returns the bound after the best `rank` scores. If there are no more than `rank`, it lies after all scores, and both
// of its fields are 0xFFFFFFFF.
template <class Row>
BSE_DEVICE RankBound bound_after(Row& row, uint32_t rank, SelectScratch& scratch) {
  uint32_t prefix = 0, left = rank;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) scratch.histogram[b] = 0;
    if (threadIdx.x == 0) scratch.chosen[0] = 256;
    __syncthreads();
    row.for_each([&](int64_t, const float& score) {
      const uint32_t bits = Row::sort_key(score);
      const bool is_in_prefix = shift == 24 || bits >> (shift + 8) == prefix;
      if (Row::has_rank(score) && is_in_prefix) atomicAdd(&scratch.histogram[bits >> shift & 255], 1u);
    });
    __syncthreads();
    if (threadIdx.x < 32) {  // finds the bin in which the count passes `left`
      uint32_t own = 0;
      for (int b = 0; b < 8; ++b) own += scratch.histogram[threadIdx.x * 8 + b];
      uint32_t before = lanes_before(own);
      if (before <= left && left < before + own) {
        unsigned b = threadIdx.x * 8;
        for (; before + scratch.histogram[b] <= left; ++b) before += scratch.histogram[b];
        scratch.chosen[0] = b;
        scratch.chosen[1] = before;
      }
    }
    __syncthreads();
    const uint32_t bin = scratch.chosen[0], before = scratch.chosen[1];
    __syncthreads();
    if (bin == 256) return {0xFFFFFFFFu, 0xFFFFFFFFu};  // no more than `rank` scores
    prefix = prefix << 8 | bin;
    left -= before;
  }
  return {prefix, left};
}

// Writes the edges of row r of the block. Unused places become -1, with score -infinity. ranks: [sort_length], or null
// without sorting
template <class Row>
BSE_DEVICE void select_edges(Row& row, const ScoreBlock& block, const SelectPlan& plan, int64_t r, const Edges& edges,
                             uint64_t* ranks, SelectScratch& scratch) {
  constexpr int kItems = Row::kItems, kWarps = Row::kThreads / 32;
  const auto num_edges = static_cast<uint32_t>(block.selection.num_neighbors);
  const auto range_min = static_cast<uint32_t>(block.selection.range_min);
  const RankBound end = bound_after(row, range_min + num_edges, scratch);
  const RankBound begin = range_min > 0 ? bound_after(row, range_min, scratch) : RankBound{0, 0};

  const int64_t group = r / block.rows_per_group;
  const int64_t result_row = block.query_row(block.first_row + r);
  int32_t* neighbors = edges.neighbors + result_row * num_edges;
  float* scores = edges.scores != nullptr ? edges.scores + result_row * num_edges : nullptr;
  uint32_t num_at_begin = 0, num_at_end = 0, num_kept = 0;
  row.for_each_strip([&](int64_t first, const float (&items)[kItems]) {
    // Which scores are among the first num_equal of a bound's key depends on column order, so a scan counts them.
    bool is_kept[kItems], is_equal[kItems];
    uint32_t places[kItems];
    BSE_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = Row::sort_key(items[i]);
      is_kept[i] = Row::has_rank(items[i]) && key >= begin.key && key <= end.key;
    }
    const auto cut = [&](const RankBound& bound, uint32_t* num_seen, bool keeps_first) {
      BSE_UNROLL
      for (int i = 0; i < kItems; ++i) is_equal[i] = is_kept[i] && Row::sort_key(items[i]) == bound.key;
      *num_seen = scan_selected<kWarps>(is_equal, *num_seen, scratch.counts, places);
      BSE_UNROLL
      for (int i = 0; i < kItems; ++i) {
        is_kept[i] = is_kept[i] && (!is_equal[i] || (places[i] < bound.num_equal) == keeps_first);
      }
    };
    if (end.num_equal != 0xFFFFFFFFu) cut(end, &num_at_end, true);
    if (range_min > 0) cut(begin, &num_at_begin, false);
    num_kept = scan_selected<kWarps>(is_kept, num_kept, scratch.counts, places);
    BSE_UNROLL
    for (int i = 0; i < kItems; ++i) {
      if (!is_kept[i]) continue;
      const auto id = static_cast<uint32_t>(block.base_id(block.candidate_row(group, Row::column(first, i))));
      if (plan.sort_length > 0) {
        ranks[places[i]] = candidate_rank(items[i], id);
      } else {
        neighbors[places[i]] = static_cast<int32_t>(id);
        if (scores != nullptr) scores[places[i]] = items[i];
      }
    }
  });
  if (plan.sort_length > 0) {
    uint32_t length = 1;  // power of two that holds the kept edges
    while (length < num_kept) length *= 2;
    for (uint32_t i = num_kept + threadIdx.x; i < length; i += blockDim.x) ranks[i] = ~uint64_t{0};
    block_sort(ranks, length);
    for (uint32_t i = threadIdx.x; i < num_kept; i += blockDim.x) {
      neighbors[i] = static_cast<int32_t>(rank_tiebreak(ranks[i]));
      if (scores != nullptr) scores[i] = rank_score(ranks[i]);
    }
    __syncthreads();  // the next row reuses the buffer
  }
  for (uint32_t i = num_kept + threadIdx.x; i < num_edges; i += blockDim.x) {
    neighbors[i] = -1;
    if (scores != nullptr) scores[i] = __uint_as_float(0xFF800000u);
  }
}

}  // namespace bse::cuda

// The best K of a row of scores, exactly: a radix search for the K-th rank, then one pass in order.
//
// Rank is (score descending, column ascending), where columns are in draw order or, for exact neighbours, in order of
// ids; NaN has none. One block a row of the slab. Per range bound: up to four passes over the row, each a histogram of
// eight bits of the score. O(columns) a row, any K, any number of columns. Ranks range_min .. range_min + K - 1 are
// kept; in column order, or (sort) by score and then lower id.
//
// Where scores are screened, with e = margin / 2 as their error and T the K-th best of them: who is above T + 2 e is
// among the best K by defined scores (fewer than K screened scores are above T, and only those with a defined one above
// T + e could be better), who is below T - 2 e is not (K of them have a defined score of at least T - e). Those between
// are scored as defined, if it matters who of them is kept.
#pragma once

#include "../common/score.h"
#include "bitonic_sort.cuh"
#include "block_scan.cuh"
#include "device.h"
#include "score_row.cuh"
#include "score_tile.cuh"

namespace bse::cuda {

// A place in the ranking: all scores with a smaller key are before it, and so many of those with this key.
struct RankBound {
  uint32_t key;  // ScoreRow::key()
  uint32_t num_equal;
};

// Shared memory of the selection.
struct SelectScratch {
  uint32_t histogram[256];
  uint32_t chosen[2];
  uint32_t sums[kSelectThreads / 32 + 1];
};

// The bound after the best `rank` scores; past all of them if there are no more.
template <class Row>
BSE_DEVICE RankBound bound_after(Row& row, uint32_t rank, SelectScratch& scratch) {
  uint32_t prefix = 0, left = rank;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) scratch.histogram[b] = 0;
    if (threadIdx.x == 0) scratch.chosen[0] = 256;
    __syncthreads();
    row.for_each([&](int64_t, const float& score) {
      const uint32_t bits = Row::key(score);
      const bool is_in_prefix = shift == 24 || bits >> (shift + 8) == prefix;
      if (Row::has_rank(score) && is_in_prefix) atomicAdd(&scratch.histogram[bits >> shift & 255], 1u);
    });
    __syncthreads();
    if (threadIdx.x < 32) {  // the bin in which the count passes `left`
      uint32_t own = 0;
      for (int b = 0; b < 8; ++b) own += scratch.histogram[threadIdx.x * 8 + b];
      uint32_t before = own;
      for (unsigned distance = 1; distance < 32; distance *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, before, distance);
        if (threadIdx.x >= distance) before += other;
      }
      before -= own;
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

// A row that does not meet itself among its candidates loses the last one.
template <class Row>
BSE_DEVICE void exclude_last(Row& row) {
  int has_itself = 0;
  row.for_each([&](int64_t, const float& score) { has_itself |= int{__float_as_uint(score) == kItselfBits}; });
  if (__syncthreads_or(has_itself) != 0) return;
  row.for_each([&](int64_t c, float& score) {
    if (c == row.num_columns() - 1) score = Row::nobody();
  });
}

// The defined score of a query and a candidate.
BSE_DEVICE float defined_score(const ScoreBlock& block, int64_t query_row, int64_t base_row) {
  const int64_t query = block.query_id(query_row), candidate = block.base_id(base_row);
  float acc = 0.0f;
  for (int64_t k = 0; k < block.queries.dim; ++k) {
    acc = fmaf(block.queries.element(query, k), block.base.element(candidate, k), acc);
  }
  return finish_score(block.selection.metric, acc, block.query_terms[query_row], block.base_terms[base_row]);
}

// Turns screened scores into ones whose best K are those of the defined scores: infinity for who is among them, NaN for
// who is not, and the defined score for the others.      r: row of the slab
template <class Row>
BSE_DEVICE void settle(Row& row, const ScoreBlock& block, int64_t r, SelectScratch& scratch) {
  const auto num_links = static_cast<uint32_t>(block.selection.num_neighbors);
  const RankBound last = bound_after(row, num_links - 1, scratch);
  if (last.key == 0xFFFFFFFFu) return;  // all are kept
  const double threshold = from_ordered_bits(~last.key);
  uint32_t num_above = 0, num_between = 0, total_above, total_between;
  row.for_each([&](int64_t, float& score) {
    if (!Row::has_rank(score)) return;
    if (score > threshold + block.margin) {
      score = __uint_as_float(0x7F800000u);
      ++num_above;
    } else if (score < threshold - block.margin) {
      score = Row::nobody();
    } else {
      ++num_between;
    }
  });
  exclusive_sum(num_above, scratch.sums, &total_above);
  exclusive_sum(num_between, scratch.sums, &total_between);
  if (total_above + total_between <= num_links) return;
  const int64_t group = r / block.rows_per_group, query_row = block.query_row(block.first_row + r);
  row.for_each([&](int64_t c, float& score) {
    if (!Row::has_rank(score) || score == __uint_as_float(0x7F800000u)) return;
    score = defined_score(block, query_row, block.candidate_row(group, c));
  });
}

// slab: [block.num_rows, block.num_candidates]      sort_buffers: [gridDim.x, sort_length] or null
template <int kItems>
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(ScoreBlock block, SelectPlan plan, float* slab, Links links, uint64_t* sort_buffers) {
  using Row = ScoreRow<kItems>;
  BSE_SHARED(SelectScratch, scratch);
  device::SharedMemory shared;
  uint64_t* ranks = plan.sort_is_shared ? shared.take<uint64_t>(plan.sort_length)
                                        : sort_buffers + size_t{blockIdx.x} * plan.sort_length;
  const auto num_links = static_cast<uint32_t>(block.selection.num_neighbors);
  const auto range_min = static_cast<uint32_t>(block.selection.range_min);
  const bool has_screened_scores = is_screened(block);
  for (int64_t r = blockIdx.x; r < block.num_rows; r += gridDim.x) {
    Row row(slab + r * block.num_candidates, block.num_candidates);
    if (plan.excludes_last) exclude_last(row);
    if (has_screened_scores) settle(row, block, r, scratch);
    const RankBound end = bound_after(row, range_min + num_links, scratch);
    const RankBound begin = range_min > 0 ? bound_after(row, range_min, scratch) : RankBound{0, 0};

    const int64_t group = r / block.rows_per_group;
    const int64_t result_row = block.query_row(block.first_row + r);
    int32_t* neighbors = links.neighbors + result_row * num_links;
    float* scores = links.scores != nullptr ? links.scores + result_row * num_links : nullptr;
    uint32_t num_at_begin = 0, num_at_end = 0, num_kept = 0;
    row.for_each([&](int64_t c, const float& score) {
      const bool has_rank = Row::has_rank(score);
      const uint32_t key = has_rank ? Row::key(score) : 0;
      // Who is among the first `num_equal` of a bound's key is a matter of column order: counted, as kept ones are.
      uint32_t total_begin = 0, total_end = 0, total_kept = 0;
      bool is_kept = has_rank && key <= end.key && key >= begin.key;
      if (range_min > 0) {
        const bool is_equal = has_rank && key == begin.key;
        const uint32_t before = num_at_begin + exclusive_sum(is_equal, scratch.sums, &total_begin);
        is_kept = is_kept && (!is_equal || before >= begin.num_equal);
      }
      if (end.num_equal != 0xFFFFFFFFu) {
        const bool is_equal = has_rank && key == end.key;
        const uint32_t before = num_at_end + exclusive_sum(is_equal, scratch.sums, &total_end);
        is_kept = is_kept && (!is_equal || before < end.num_equal);
      }
      const uint32_t place = num_kept + exclusive_sum(is_kept, scratch.sums, &total_kept);
      if (is_kept) {
        const auto id = static_cast<uint32_t>(block.base_id(block.candidate_row(group, c)));
        if (plan.sort_length > 0) {
          ranks[place] = candidate_rank(score, id);
        } else {
          neighbors[place] = static_cast<int32_t>(id);
          if (scores != nullptr) scores[place] = score;
        }
      }
      num_at_begin += total_begin;
      num_at_end += total_end;
      num_kept += total_kept;
    });
    if (plan.sort_length > 0) {
      uint32_t length = 1;  // of what there is
      while (length < num_kept) length *= 2;
      for (uint32_t i = num_kept + threadIdx.x; i < length; i += blockDim.x) ranks[i] = ~uint64_t{0};
      bitonic_sort(ranks, length);
      for (uint32_t i = threadIdx.x; i < num_kept; i += blockDim.x) {
        neighbors[i] = static_cast<int32_t>(rank_tiebreak(ranks[i]));
        if (scores != nullptr) scores[i] = rank_score(ranks[i]);
      }
      __syncthreads();  // the next row reuses the buffer
    }
    for (uint32_t i = num_kept + threadIdx.x; i < num_links; i += blockDim.x) {
      neighbors[i] = -1;
      if (scores != nullptr) scores[i] = __uint_as_float(0xFF800000u);
    }
  }
}

}  // namespace bse::cuda

// The best K of a row of scores, exactly: a radix search for the K-th rank, then one pass in order.
//
// Rank is (score descending, column ascending), where columns are in draw order or, for exact neighbours, in order of
// ids; NaN has none. One block a row of the slab. Per range bound: four passes over the row (from L2), each a histogram
// of eight bits of the score. O(columns) a row, any K, any number of columns. Ranks range_min .. range_min + K - 1 are
// kept; in column order, or (sort) by score and then lower id with a bitonic network.
#pragma once

#include "../common/score.h"
#include "block_scan.cuh"
#include "device.h"
#include "score_block.h"

namespace bse::cuda {

constexpr int kSelectThreads = 128;

// A place in the ranking: all scores with a smaller key are before it, and so many of those with this key.
struct RankBound {
  uint32_t key;        // ~ordered_bits(score): a smaller key is a better score
  uint32_t num_equal;  // of that key before the bound
};

// One row of the slab as the selection sees it.
class ScoreRow {
 public:
  // excludes_last: the row's own column counts for none, and if there is none, the last column does.
  BSE_DEVICE ScoreRow(const float* scores, int64_t num_columns, bool excludes_last)
      : scores_(scores), num_columns_(num_columns) {
    if (!excludes_last) return;
    int found = 0;
    for (int64_t c = threadIdx.x; c < num_columns; c += blockDim.x) {
      found |= static_cast<int>(__float_as_uint(scores[c]) == kItselfBits);
    }
    if (__syncthreads_or(found) == 0) --num_columns_;
  }

  BSE_DEVICE int64_t num_columns() const { return num_columns_; }
  BSE_DEVICE float score(int64_t c) const { return scores_[c]; }
  BSE_DEVICE static bool has_rank(float score) { return score == score; }
  BSE_DEVICE static uint32_t key(float score) { return ~ordered_bits(score); }

  // The bound after the best `rank` scores; all of them if there are no more.      histogram: [256], shared
  BSE_DEVICE RankBound bound(uint32_t rank, uint32_t* histogram) const {
    BSE_SHARED(uint32_t, chosen, [2]);
    uint32_t prefix = 0, left = rank;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (unsigned b = threadIdx.x; b < 256; b += blockDim.x) histogram[b] = 0;
      if (threadIdx.x == 0) chosen[0] = 256;
      __syncthreads();
      for (int64_t c = threadIdx.x; c < num_columns_; c += blockDim.x) {
        const float score = scores_[c];
        const uint32_t bits = key(score);
        const bool is_in_prefix = shift == 24 || bits >> (shift + 8) == prefix;
        if (has_rank(score) && is_in_prefix) atomicAdd(&histogram[bits >> shift & 255], 1u);
      }
      __syncthreads();
      if (threadIdx.x < 32) {  // the bin in which the count passes `left`
        uint32_t own = 0;
        for (int b = 0; b < 8; ++b) own += histogram[threadIdx.x * 8 + b];
        uint32_t before = own;
        for (unsigned distance = 1; distance < 32; distance *= 2) {
          const uint32_t other = __shfl_up_sync(~0u, before, distance);
          if (threadIdx.x >= distance) before += other;
        }
        before -= own;
        if (before <= left && left < before + own) {
          unsigned b = threadIdx.x * 8;
          for (; before + histogram[b] <= left; ++b) before += histogram[b];
          chosen[0] = b;
          chosen[1] = before;
        }
      }
      __syncthreads();
      const uint32_t bin = chosen[0], before = chosen[1];
      __syncthreads();
      if (bin == 256) return {0xFFFFFFFFu, 0xFFFFFFFFu};  // no more than `rank` scores
      prefix = prefix << 8 | bin;
      left -= before;
    }
    return {prefix, left};
  }

 private:
  const float* scores_;
  int64_t num_columns_;
};

// ranks: [length], length a power of two, ascending afterwards.
BSE_DEVICE void bitonic_sort(uint64_t* ranks, uint32_t length) {
  for (uint32_t size = 2; size <= length; size *= 2) {
    for (uint32_t distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (uint32_t i = threadIdx.x; i < length / 2; i += blockDim.x) {
        const uint32_t low = 2 * i - (i & (distance - 1)), high = low + distance;
        const bool ascends = (low & size) == 0;
        const uint64_t a = ranks[low], b = ranks[high];
        if ((a > b) == ascends) {
          ranks[low] = b;
          ranks[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// slab: [block.num_rows, block.num_candidates]      sort_buffers: [gridDim.x, sort_length] or null
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(ScoreBlock block, SelectPlan plan, const float* slab, Links links, uint64_t* sort_buffers) {
  BSE_SHARED(uint32_t, histogram, [256]);
  BSE_SHARED(uint32_t, sums, [kSelectThreads / 32 + 1]);
  device::SharedMemory shared;
  uint64_t* ranks = plan.sort_is_shared ? shared.take<uint64_t>(plan.sort_length)
                                        : sort_buffers + size_t{blockIdx.x} * plan.sort_length;
  const auto num_links = static_cast<uint32_t>(block.selection.num_neighbors);
  const auto range_min = static_cast<uint32_t>(block.selection.range_min);
  for (int64_t r = blockIdx.x; r < block.num_rows; r += gridDim.x) {
    const ScoreRow row(slab + r * block.num_candidates, block.num_candidates, plan.excludes_last);
    const RankBound end = row.bound(range_min + num_links, histogram);
    const RankBound begin = range_min > 0 ? row.bound(range_min, histogram) : RankBound{0, 0};

    const int64_t group = r / block.rows_per_group;
    const int64_t result_row = block.query_row(block.first_row + r);
    int32_t* neighbors = links.neighbors + result_row * num_links;
    float* scores = links.scores != nullptr ? links.scores + result_row * num_links : nullptr;
    uint32_t num_at_begin = 0, num_at_end = 0, num_kept = 0;
    for (int64_t first = 0; first < row.num_columns(); first += blockDim.x) {
      const int64_t c = first + threadIdx.x;
      const float score = c < row.num_columns() ? row.score(c) : __uint_as_float(kItselfBits);
      const bool has_rank = ScoreRow::has_rank(score);
      const uint32_t key = has_rank ? ScoreRow::key(score) : 0;
      // Who is among the first `num_equal` of a bound's key is a matter of column order: counted, as kept ones are.
      uint32_t total_begin = 0, total_end = 0, total_kept = 0;
      bool is_kept = has_rank && key <= end.key && key >= begin.key;
      if (range_min > 0) {
        const bool is_equal = has_rank && key == begin.key;
        const uint32_t before = num_at_begin + exclusive_sum(is_equal, sums, &total_begin);
        is_kept = is_kept && (!is_equal || before >= begin.num_equal);
      }
      const bool is_equal = has_rank && key == end.key;
      const uint32_t before = num_at_end + exclusive_sum(is_equal, sums, &total_end);
      is_kept = is_kept && (!is_equal || before < end.num_equal);
      const uint32_t place = num_kept + exclusive_sum(is_kept, sums, &total_kept);
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
    }
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

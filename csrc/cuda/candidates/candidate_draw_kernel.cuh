// Ordered candidate draws without replacement (csrc/common/draw.h), one block per group of rows.
//
// If at most half of all n values are drawn, the draw is the first `num_drawn` distinct values of the group's word
// stream. Each thread makes four words at a time (a Philox block), and the list keeps the first of equal values
// (distinct_list.cuh). Otherwise the draw is a Fisher-Yates shuffle of all values, stopped after num_drawn swaps. Each
// swap depends on the one before, so one thread makes them all, in shared memory if the values fit. O(num_drawn)
// expected work per group.
#pragma once

#include "common/draw.h"
#include "cuda/primitives/distinct_list.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr int kDrawThreads = 256;
constexpr uint32_t kWordsAtOnce = 4 * kDrawThreads;

struct DrawPlan {
  uint32_t num_drawn, n;
  uint64_t seed;
  uint32_t num_slots;      // slots of the hash table, or 0 for a shuffle
  bool is_shared;          // table or shuffle in shared memory; otherwise table in `tables`, shuffle in `values`
  uint32_t values_stride;  // distance between the draws of two groups
  bool are_own;            // per-row candidates: group g is row g, and n excludes the row itself
};

// values: [num_groups, values_stride], the first num_drawn of a row are the draw      tables: [gridDim.x, num_slots]
// or null
__global__ void __launch_bounds__(kDrawThreads)
    candidate_draw_kernel(DrawPlan plan, uint32_t first_group, uint32_t num_groups, uint32_t* values,
                          uint64_t* tables) {
  BSE_SHARED(uint32_t, sums, [kDrawThreads / 32 + 1]);
  device::SharedMemory shared;
  const bool is_sparse = plan.num_slots > 0;
  uint64_t* table = tables + size_t{blockIdx.x} * plan.num_slots;
  if (is_sparse && plan.is_shared) table = shared.take<uint64_t>(plan.num_slots);
  uint32_t* const shuffled = !is_sparse && plan.is_shared ? shared.take<uint32_t>(plan.n) : nullptr;
  // 2^32 mod n. A word is skipped if the low half of word * n is below it, as in uniform_below().
  const uint32_t num_surplus = (0u - plan.n) % plan.n;
  for (uint32_t g = blockIdx.x; g < num_groups; g += gridDim.x) {
    const uint32_t group = first_group + g;
    uint32_t* drawn = values + size_t{g} * plan.values_stride;
    if (!is_sparse) {
      uint32_t* const all = shuffled != nullptr ? shuffled : drawn;
      for (uint32_t i = threadIdx.x; i < plan.n; i += kDrawThreads) all[i] = i;
      __syncthreads();
      if (threadIdx.x == 0) {
        WordStream words(plan.seed, Purpose::kCandidates, 0, group, 0);
        shuffle_front(words, plan.num_drawn, plan.n, all);
      }
      if (shuffled != nullptr) {
        __syncthreads();
        for (uint32_t c = threadIdx.x; c < plan.num_drawn; c += kDrawThreads) drawn[c] = shuffled[c];
      }
    } else {
      DistinctList list(table, plan.num_slots, sums, drawn);
      list.clear();
      for (uint32_t block = threadIdx.x; list.size() < plan.num_drawn; block += kDrawThreads) {
        const PhiloxBlock words = philox4x32(plan.seed, stream_tag(Purpose::kCandidates, 0), group, 0, block);
        uint32_t offer[4];
        unsigned offered = 0;
        for (int i = 0; i < 4; ++i) {
          const uint64_t product = uint64_t{words.word[i]} * plan.n;
          offer[i] = static_cast<uint32_t>(product >> 32);
          offered |= unsigned{static_cast<uint32_t>(product) >= num_surplus} << i;
        }
        list.append(offer, offered, plan.num_drawn);
      }
    }
    __syncthreads();
    if (plan.are_own) {
      for (uint32_t c = threadIdx.x; c < plan.num_drawn; c += kDrawThreads) drawn[c] = other_row(drawn[c], group);
    }
    __syncthreads();  // the next group reuses the table
  }
}

}  // namespace bse::cuda

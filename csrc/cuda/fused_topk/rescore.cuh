// Selects the best of a few columns by exact scores, where quantized scores cannot, with one warp. Ties go to the lower
// column.
#pragma once

#include "common/score.h"
#include "cuda/fused_topk/quantized_cut.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Returns the best columns plus the num_wanted best of the close ones, of which there are at most tuning::kMaxClose.
// list: this warp's, with room for all columns. score(column): exact score.
template <int kParts, class Score>
BSE_DEVICE ColumnSet<kParts> rescore_close(const QuantizedCut<kParts>& cut, uint16_t* list, const Score& score) {
  constexpr int kItems = tuning::kMaxClose / 32;
  constexpr uint16_t kIsChosen = 0x8000;  // columns have fewer bits
  const uint32_t lane = threadIdx.x % 32;
  cut.close.for_each([&](uint32_t place, uint32_t column) { list[place] = static_cast<uint16_t>(column); });
  __syncwarp();
  // Item i of a lane is place 32 i + lane, so items are in column order. Smaller sort keys are better.
  uint32_t sort_keys[kItems], worst = 0, least = ~0u;
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    const uint32_t place = 32 * i + lane;
    sort_keys[i] = ~0u;
    if (place >= cut.num_close) continue;
    sort_keys[i] = ~ordered_bits(score(list[place]));
    worst = max(worst, sort_keys[i]);
    least = min(least, sort_keys[i]);
  }
  // Bisects for the num_wanted-th smallest key: at least num_wanted keys are <= high, fewer are <= low.
  uint32_t high = __reduce_max_sync(kAllLanes, worst), low = __reduce_min_sync(kAllLanes, least) - 1;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    uint32_t own = 0;
    BSE_UNROLL
    for (int i = 0; i < kItems; ++i) own += sort_keys[i] <= middle;
    (__reduce_add_sync(kAllLanes, own) >= cut.num_wanted ? high : low) = middle;
  }
  uint32_t own = 0;
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) own += sort_keys[i] < high;
  uint32_t num_left = cut.num_wanted - __reduce_add_sync(kAllLanes, own);  // keys equal to high to choose
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    const uint32_t place = 32 * i + lane;
    const unsigned equal = __ballot_sync(kAllLanes, place < cut.num_close && sort_keys[i] == high);
    const uint32_t rank = __popc(equal & ((1u << lane) - 1));
    const bool is_chosen = sort_keys[i] < high || (sort_keys[i] == high && rank < num_left);
    if (place < cut.num_close && is_chosen) list[place] |= kIsChosen;
    const auto num_equal = static_cast<uint32_t>(__popc(equal));
    num_left -= min(num_left, num_equal);
  }
  __syncwarp();
  ColumnSet<kParts> chosen = cut.close;
  chosen.retain([&](uint32_t place, uint32_t) { return (list[place] & kIsChosen) != 0; });
  __syncwarp();  // the list may be used again
  return chosen.with(cut.best);
}

}  // namespace bse::cuda

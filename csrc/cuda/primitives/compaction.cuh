// Places of the chosen items of a strip, in column order: a count for each warp and item, and their running sum.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// counts: [32] in shared memory. places[i]: how many chosen items precede item i of this thread, plus `start`. Returns
// `start` plus all chosen ones. All threads call it; it begins with a barrier.
template <int kWarps, int kItems>
BSE_DEVICE uint32_t scan_selected(const bool (&is_chosen)[kItems], uint32_t start, uint32_t* counts,
                                  uint32_t (&places)[kItems]) {
  static_assert(kItems * kWarps <= 32, "one lane for each count");
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = (1u << lane) - 1;
  __syncthreads();  // whoever used the counts has done with them
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    const unsigned chosen = __ballot_sync(kAllLanes, is_chosen[i]);
    places[i] = __popc(chosen & before);
    if (lane == 0) counts[i * kWarps + warp] = __popc(chosen);
  }
  __syncthreads();
  // Every warp adds them up for itself.
  const uint32_t own = lane < kItems * kWarps ? counts[lane] : 0;
  const uint32_t sum = lanes_before(own);
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    places[i] += start + __shfl_sync(kAllLanes, sum, i * kWarps + static_cast<int>(warp));
  }
  return start + __shfl_sync(kAllLanes, sum + own, 31);
}

}  // namespace bse::cuda

// Stream compaction: output positions of the selected items of a strip, in column order. A strip has kItems items per
// thread; item i of thread t is column i * num_threads + t. Each warp counts its selected items per i, and a scan of
// these counts gives the positions.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Sets places[i] to `start` plus the number of selected items before item i of this thread. Returns `start` plus the
// number of all selected items. All threads call it. Begins with a barrier. counts: [32] in shared memory
template <int kWarps, int kItems>
BSE_DEVICE uint32_t scan_selected(const bool (&is_chosen)[kItems], uint32_t start, uint32_t* counts,
                                  uint32_t (&places)[kItems]) {
  static_assert(kItems * kWarps <= 32, "one lane for each count");
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = (1u << lane) - 1;
  __syncthreads();  // earlier reads of the counts are done
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    const unsigned chosen = __ballot_sync(kAllLanes, is_chosen[i]);
    places[i] = __popc(chosen & before);
    if (lane == 0) counts[i * kWarps + warp] = __popc(chosen);
  }
  __syncthreads();
  // Each warp scans all counts itself, which saves a barrier.
  const uint32_t own = lane < kItems * kWarps ? counts[lane] : 0;
  const uint32_t sum = lanes_before(own);
  BSE_UNROLL
  for (int i = 0; i < kItems; ++i) {
    places[i] += start + __shfl_sync(kAllLanes, sum, i * kWarps + static_cast<int>(warp));
  }
  return start + __shfl_sync(kAllLanes, sum + own, 31);
}

}  // namespace bse::cuda

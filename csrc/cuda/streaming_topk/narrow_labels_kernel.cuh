// Narrows labels to 32 bits (narrow_labels.h).
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/streaming_topk/narrow_labels.h"

namespace bse::cuda {

constexpr int kNarrowLabelThreads = 256;

// labels: by instance id      ids: [count], or null: all in order      narrow.has_wide: 0 at first
__global__ void __launch_bounds__(kNarrowLabelThreads)
    narrow_labels_kernel(const int64_t* labels, const int64_t* ids, int64_t count, NarrowLabels narrow) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int64_t label = labels[ids != nullptr ? ids[i] : i];
  if (label > 0x7FFFFFFF) atomicOr(narrow.has_wide, 1u);
  narrow.of_base[i] = label < 0 ? NarrowLabels::kUnknown : static_cast<int32_t>(label);
}

}  // namespace bse::cuda

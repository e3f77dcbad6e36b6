// Shapes and memory of the thread blocks that score and select rows of a group (fused_topk_kernel.cuh).
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/runtime/device.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// kRows rows of a group, with up to 1024 * kParts candidates. All rows are multiplied with one panel of candidates at a
// time, slice by slice (products.cuh). Shared memory holds kStages slices. A warp has kWarpRows x kWarpColumns pairs of
// a panel.
template <int kRows_, int kParts_, int kStages_>
struct FusedShape {
  static constexpr int kRows = kRows_, kParts = kParts_, kStages = kStages_;
  static constexpr int kMaxColumns = 1024 * kParts;
  static constexpr int kWarpRows = kRows < 32 ? kRows : 32, kWarpColumns = kChunkColumns;
  static constexpr int kColumnWarps = tuning::kFusedPanelColumns / kWarpColumns;
  static constexpr int kWarps = kRows / kWarpRows * kColumnWarps, kThreads = 32 * kWarps;
  static constexpr int kPanelColumns = tuning::kFusedPanelColumns, kDepth = tuning::kFusedPanelDepth;
  // Elements from one candidate of a slice to the next. 16-byte pieces of eight successive ones fall into different
  // banks.
  static constexpr int kPitch = kDepth + 8;
  static constexpr int kPanel = kPanelColumns * kPitch;  // elements of a slice in shared memory
  // After the products, each warp keeps its list of columns where the panels were.
  static_assert(kStages >= 2, "a slice that comes while one is used");
  static_assert(kWarps * kMaxColumns <= kStages * kPanel, "room for a list of columns for each warp");
};

BSE_HOST_DEVICE constexpr int64_t padded_dim(int64_t dim) {
  return (dim + tuning::kFusedPanelDepth - 1) / tuning::kFusedPanelDepth * tuning::kFusedPanelDepth;
}

// Dynamic shared memory in bytes, as laid out by BlockMemory.
template <class Shape>
size_t fused_shared_bytes(int64_t num_columns, int64_t dim) {
  const auto columns = static_cast<size_t>(num_columns);
  return device::shared_bytes<QuantizedQuarter>(Shape::kRows *
                                                static_cast<size_t>(row_quarters(num_chunks(num_columns)))) +
         device::shared_bytes<uint16_t>(Shape::kRows * static_cast<size_t>(padded_dim(dim) + 8)) +
         device::shared_bytes<uint16_t>(Shape::kStages * Shape::kPanel) + device::shared_bytes<uint32_t>(columns) +
         2 * device::shared_bytes<float>(columns);
}

}  // namespace bse::cuda

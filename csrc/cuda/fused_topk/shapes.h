// Shapes and memory of the thread blocks that score and select rows of a group (fused_topk_kernel.cuh).
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/runtime/device.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// kRows rows of a group, with up to 1024 * kParts candidates. All rows are multiplied with one panel of candidates at a
// time, slice by slice (products.cuh). A slice is kDepth elements of each candidate of a panel, and shared memory holds
// two slices. A warp has kWarpRows x kWarpColumns pairs of a panel.
template <int kRows_, int kParts_, int kDepth_>
struct FusedShape {
  static constexpr int kRows = kRows_, kParts = kParts_, kDepth = kDepth_;
  static constexpr int kMaxColumns = 1024 * kParts;
  static constexpr int kWarpRows = kRows < 32 ? kRows : 32, kWarpColumns = kChunkColumns;
  static constexpr int kColumnWarps = tuning::kFusedPanelColumns / kWarpColumns;
  static constexpr int kWarps = kRows / kWarpRows * kColumnWarps, kThreads = 32 * kWarps;
  static constexpr int kPanelColumns = tuning::kFusedPanelColumns;
  static constexpr int kStages = 2;                      // slices in shared memory: one is used while the next comes
  static constexpr int kPanel = kPanelColumns * kDepth;  // elements of a slice of candidates (panel_layout.cuh)
  static constexpr int kQuerySlice = kRows * kDepth;     // elements of a slice of the block's rows
  // After the products, the panels' memory holds a list of columns for each warp. After the lists and a barrier, it
  // holds the exact scores of a row.
  static_assert(kWarps * kMaxColumns <= kStages * kPanel, "room for a list of columns for each warp");
  static_assert(2 * kMaxColumns <= kStages * kPanel, "room for exact scores");

  BSE_HOST_DEVICE static constexpr int num_slices(int64_t dim) { return static_cast<int>((dim + kDepth - 1) / kDepth); }
};

// Dynamic shared memory in bytes, as laid out by BlockMemory.
template <class Shape>
size_t fused_shared_bytes(int64_t num_columns, int64_t dim) {
  const auto chunks = static_cast<size_t>(num_chunks(num_columns));
  return device::shared_bytes<QuantizedQuarter>(Shape::kRows *
                                                static_cast<size_t>(row_quarters(num_chunks(num_columns)))) +
         device::shared_bytes<uint16_t>(static_cast<size_t>(Shape::num_slices(dim)) * Shape::kQuerySlice) +
         device::shared_bytes<uint16_t>(Shape::kStages * Shape::kPanel) +
         device::shared_bytes<uint32_t>(static_cast<size_t>(num_columns)) +
         device::shared_bytes<float>(chunks * kChunkColumns);
}

}  // namespace bse::cuda

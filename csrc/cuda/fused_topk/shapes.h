// Bands of rows that are scored and selected within one thread block (fused_topk_kernel.cuh): their shapes and memory.
#pragma once

#include "cuda/fused_topk/quantized_row.cuh"
#include "cuda/runtime/device.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// kRows rows of a group, with up to 1024 * kParts candidates. A panel of candidates meets all rows at a time, kStages
// pieces of panels in memory; a warp has kWarpRows x kWarpColumns pairs of it.
template <int kRows_, int kParts_, int kStages_>
struct FusedShape {
  static constexpr int kRows = kRows_, kParts = kParts_, kStages = kStages_;
  static constexpr int kMaxColumns = 1024 * kParts;
  static constexpr int kWarpRows = kRows < 32 ? kRows : 32, kWarpColumns = kChunkColumns;
  static constexpr int kColumnWarps = tuning::kFusedPanelColumns / kWarpColumns;
  static constexpr int kWarps = kRows / kWarpRows * kColumnWarps, kThreads = 32 * kWarps;
  static constexpr int kPanelColumns = tuning::kFusedPanelColumns, kDepth = tuning::kFusedPanelDepth;
  // Elements between two rows of a panel: pieces of 16 bytes of eight rows in turn fall into different banks.
  static constexpr int kPitch = kDepth + 8;
  static constexpr int kPanel = kPanelColumns * kPitch;
  // Once all products are made, each warp lists columns where the panels were.
  static_assert(kStages >= 2, "a piece that comes while one is used");
  static_assert(kWarps * kMaxColumns <= kStages * kPanel, "room for a list of columns for each warp");
};

BSE_HOST_DEVICE constexpr int64_t padded_dim(int64_t dim) {
  return (dim + tuning::kFusedPanelDepth - 1) / tuning::kFusedPanelDepth * tuning::kFusedPanelDepth;
}

// Dynamic shared memory, as BlockMemory takes it.
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

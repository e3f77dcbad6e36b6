// Quantized scores of a thread block's rows against all candidates of their group, by tensor cores.
//
// The rows stay in shared memory. Candidates pass through it in panels of kPanelColumns, by cp.async. A slice is kDepth
// elements of each candidate of a panel. While one slice is multiplied, the next one comes. The order of candidates
// within a panel puts the two columns that mma leaves in a lane into one word of quantized scores (quantized_row.cuh).
// O(rows candidates D) products. Each block reads all candidates once, from L2 if blocks of a group run side by side.
#pragma once

#include "cuda/fused_topk/block_rows.cuh"
#include "cuda/fused_topk/shapes.h"
#include "cuda/primitives/mma_tile.cuh"
#include "cuda/primitives/panel_layout.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::cuda {

// Dynamic shared memory of a thread block.
template <class Shape>
struct BlockMemory {
  int num_columns, num_chunks, num_slices;
  QuantizedQuarter* quantized;  // [kRows, row_quarters]
  uint16_t* queries;            // [num_slices, kRows, kDepth] in PanelLayout, zeros past the last element
  uint16_t* panels;             // [kStages, kPanelColumns, kDepth] in PanelLayout
  uint32_t* base_ids;           // [num_columns]
  float* base_norms;            // [num_chunks * kChunkColumns], zeros past the last column

  BSE_DEVICE BlockMemory(int64_t columns, int64_t dim)
      : num_columns(static_cast<int>(columns)),
        num_chunks(cuda::num_chunks(columns)),
        num_slices(Shape::num_slices(dim)) {
    device::SharedMemory shared;
    quantized = shared.take<QuantizedQuarter>(Shape::kRows * row_quarters(num_chunks));
    queries = shared.take<uint16_t>(num_slices * Shape::kQuerySlice);
    panels = shared.take<uint16_t>(Shape::kStages * Shape::kPanel);
    base_ids = shared.take<uint32_t>(num_columns);
    base_norms = shared.take<float>(num_chunks * kChunkColumns);
  }

  BSE_DEVICE QuantizedQuarter* row(int i) const { return quantized + i * row_quarters(num_chunks); }

  // After the products, the panels' memory is used for these.
  BSE_DEVICE uint16_t* list() const { return panels + threadIdx.x / 32 * (kChunkColumns * num_chunks); }
  BSE_DEVICE float* exact_scores() const { return reinterpret_cast<float*>(panels); }  // [num_columns], of one row
};

// Starts copying the block's rows, as part of the next group that is committed. Needs rows.ids.
template <class Shape>
BSE_DEVICE void fetch_queries(const DeviceMatrix& queries, const BlockMemory<Shape>& memory,
                              const BlockRows<Shape::kRows>& rows, int num_rows) {
  using Layout = PanelLayout<Shape::kDepth>;
  const auto* elements = static_cast<const uint16_t*>(queries.data);
  for (int n = threadIdx.x; n < memory.num_slices * Shape::kRows * Layout::kPieces; n += Shape::kThreads) {
    const int piece = n % Layout::kPieces, i = n / Layout::kPieces % Shape::kRows;
    const int slice = n / Layout::kPieces / Shape::kRows, k = slice * Shape::kDepth + piece * 8;
    const bool is_inside = i < num_rows && k < queries.dim;
    const uint16_t* source = is_inside ? elements + rows.ids[i] * queries.row_stride_elements + k : elements;
    ptx::cp_async16(memory.queries + slice * Shape::kQuerySlice + Layout::place(i, piece), source, is_inside ? 16 : 0);
  }
}

// The slices of all panels, in the order of their multiplication. A thread copies the same piece of kRounds candidates
// in each slice. It keeps their addresses while the slices of a panel pass.
template <class Shape>
class CandidateSlices {
 public:
  BSE_DEVICE CandidateSlices(const DeviceMatrix& base, const BlockMemory<Shape>& memory)
      : base_(base), memory_(memory), first_element_(threadIdx.x % Layout::kPieces * 8) {
    const int i = threadIdx.x / Layout::kPieces;
    // Adjacent columns of an mma tile become the low and the high half of a quarter's word.
    column_in_panel_ = i / kChunkColumns * kChunkColumns + column_in_chunk(i % 32 / 8, i % 8 / 2, i % 2);
    destination_ = memory.panels + Layout::place(i, threadIdx.x % Layout::kPieces);
  }

  // Starts copying the next slice. Past the last one it copies nothing. Columns past the last one repeat it. Needs
  // memory.base_ids.
  BSE_DEVICE void fetch() {
    if (first_column_ < memory_.num_columns) {
      if (element_ == first_element_) find_candidates();
      const int num_bytes = element_ < base_.dim ? 16 : 0;
      BSE_UNROLL
      for (int n = 0; n < kRounds; ++n) {
        ptx::cp_async16(destination_ + stage_ * Shape::kPanel + n * kRoundRows * Shape::kDepth, candidates_[n],
                        num_bytes);
        candidates_[n] += Shape::kDepth;
      }
      element_ += Shape::kDepth;
      if (element_ >= memory_.num_slices * Shape::kDepth) {
        element_ = first_element_;
        first_column_ += Shape::kPanelColumns;
      }
      stage_ ^= 1;
    }
    ptx::cp_async_commit();  // an empty group too, because the wait counts groups
  }

 private:
  using Layout = PanelLayout<Shape::kDepth>;
  static constexpr int kRoundRows = Shape::kThreads / Layout::kPieces;  // candidates of all threads at a time
  static constexpr int kRounds = Shape::kPanelColumns / kRoundRows;
  static_assert(Shape::kStages == 2, "stage_ is 0 or 1");
  static_assert(kRoundRows % kChunkColumns == 0, "the columns of a thread have the same place in their chunks");

  BSE_DEVICE void find_candidates() {
    BSE_UNROLL
    for (int n = 0; n < kRounds; ++n) {
      const int column = min(first_column_ + column_in_panel_ + n * kRoundRows, memory_.num_columns - 1);
      candidates_[n] = static_cast<const uint16_t*>(base_.data) + memory_.base_ids[column] * base_.row_stride_elements +
                       first_element_;
    }
  }

  const DeviceMatrix& base_;
  const BlockMemory<Shape>& memory_;
  const uint16_t* candidates_[kRounds];  // the next pieces of this thread
  uint16_t* destination_;                // in the first stage
  const int first_element_;              // of a thread's piece in the first slice
  int column_in_panel_;
  int first_column_ = 0, element_ = first_element_, stage_ = 0;  // of the next slice
};

// Writes the quantized scores of a warp's rows with a chunk of columns, and sets the products to zero. In each mma tile
// a lane holds two columns of two rows that are eight apart. The two columns make one word of quantized scores.
template <class Shape, int kRowTiles, int kColumnTiles>
BSE_DEVICE void write_quantized(const BlockMemory<Shape>& memory, int chunk, int warp_row,
                                const float (&scaled_norms)[2 * kRowTiles], float (&acc)[kRowTiles][kColumnTiles][4]) {
  const int lane = threadIdx.x % 32;
  BSE_UNROLL
  for (int j = 0; j < kColumnTiles; ++j) {
    float norms[2], origins[2];
    BSE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int column = chunk * kChunkColumns + column_in_chunk(j, lane % 4, half);
      norms[half] = memory.base_norms[column];
      origins[half] = column < memory.num_columns ? kQuantizedOrigin : kExcludedOrigin;
    }
    BSE_UNROLL
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      float (&tile)[4] = acc[i / 2][j];
      const uint32_t low = quantized_bits(tile[i % 2 * 2], scaled_norms[i] * norms[0], origins[0]);
      const uint32_t high = quantized_bits(tile[i % 2 * 2 + 1], scaled_norms[i] * norms[1], origins[1]);
      memory.row(warp_row + 8 * i + lane / 4)[quarter_place(chunk, j)].words[lane % 4] = __byte_perm(low, high, 0x5410);
      tile[i % 2 * 2] = tile[i % 2 * 2 + 1] = 0.0f;
    }
  }
}

// Fills the quantized scores with all threads of the block. The queries and the first slice must be on their way, as
// one group of copies. Needs memory.base_norms and rows.norms; ends with a barrier.
template <class Shape>
BSE_DEVICE void quantize_products(const BlockMemory<Shape>& memory, const BlockRows<Shape::kRows>& rows, int num_rows,
                                  CandidateSlices<Shape>& slices) {
  constexpr int kRowTiles = Shape::kWarpRows / 16, kColumnTiles = Shape::kWarpColumns / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / Shape::kColumnWarps * Shape::kWarpRows, warp_chunk = warp % Shape::kColumnWarps;
  const SliceProducts<Shape::kDepth> products(warp_row, warp_chunk * kChunkColumns);
  float scaled_norms[2 * kRowTiles];  // of rows lane / 4 and lane / 4 + 8 of each tile
  BSE_UNROLL
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    const int row = warp_row + 8 * i + lane / 4;
    scaled_norms[i] = row < num_rows ? rows.norms[row] * kQuantizedScale : 0.0f;
  }
  float acc[kRowTiles][kColumnTiles][4] = {};
  int stage = 0;
  for (int chunk = warp_chunk; chunk - warp_chunk < memory.num_chunks; chunk += Shape::kColumnWarps) {
    const uint16_t* queries = memory.queries;
    for (int slice = 0; slice < memory.num_slices; ++slice) {
      ptx::cp_async_wait<0>();
      __syncthreads();  // this slice has landed for all threads, and no thread needs the one before
      slices.fetch();
      products.add(queries, memory.panels + stage * Shape::kPanel, acc);
      queries += Shape::kQuerySlice;
      stage ^= 1;
    }
    // A warp without a chunk has multiplied repeats of the last candidate: a branch around it would cost all others.
    if (chunk < memory.num_chunks) write_quantized(memory, chunk, warp_row, scaled_norms, acc);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

}  // namespace bse::cuda

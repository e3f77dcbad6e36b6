// Quantized scores of a thread block's rows against all candidates of their group, by tensor cores.
//
// The rows stay in shared memory. Candidates pass through it in panels of kPanelColumns, by cp.async. A slice is kDepth
// elements of each candidate of a panel, and kStages slices are in flight. The order of candidates within a panel puts
// the two columns that mma leaves in a lane into one word of quantized scores (quantized_row.cuh).
// O(rows candidates D) products. Each block reads all candidates once, from L2 if blocks of a group run side by side.
#pragma once

#include "cuda/fused_topk/block_rows.cuh"
#include "cuda/fused_topk/shapes.h"
#include "cuda/primitives/mma_tile.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::cuda {

// Dynamic shared memory of a thread block.
template <class Shape>
struct BlockMemory {
  int num_columns, num_chunks, query_pitch;
  QuantizedQuarter* quantized;  // [kRows, row_quarters]
  uint16_t* queries;            // [kRows, query_pitch], zeros past the last element
  uint16_t* panels;             // [kStages, kPanelColumns, kPitch]; after the products, a list of columns for each warp
  uint32_t* base_ids;           // [num_columns]
  float* base_norms;            // [num_columns]
  float* exact_scores;          // [num_columns], of one row at a time

  BSE_DEVICE BlockMemory(int64_t columns, int64_t dim)
      : num_columns(static_cast<int>(columns)),
        num_chunks(cuda::num_chunks(columns)),
        query_pitch(static_cast<int>(padded_dim(dim)) + 8) {
    device::SharedMemory shared;
    quantized = shared.take<QuantizedQuarter>(Shape::kRows * row_quarters(num_chunks));
    queries = shared.take<uint16_t>(Shape::kRows * query_pitch);
    panels = shared.take<uint16_t>(Shape::kStages * Shape::kPanel);
    base_ids = shared.take<uint32_t>(num_columns);
    base_norms = shared.take<float>(num_columns);
    exact_scores = shared.take<float>(num_columns);
  }

  BSE_DEVICE QuantizedQuarter* row(int i) const { return quantized + i * row_quarters(num_chunks); }
  BSE_DEVICE uint16_t* list() const { return panels + threadIdx.x / 32 * (kChunkColumns * num_chunks); }
};

// Starts copying a piece, 16 bytes of a row, into shared memory. Past the end of the row or of the rows it is zero.
BSE_DEVICE void fetch_piece(const DeviceMatrix& matrix, bool is_row, int64_t row, int64_t k, uint16_t* destination) {
  const auto* elements = static_cast<const uint16_t*>(matrix.data);
  const bool is_inside = is_row && k < matrix.dim;
  const uint16_t* source = is_inside ? elements + row * matrix.row_stride_elements + k : elements;
  ptx::cp_async16(destination, source, is_inside ? 16 : 0);
}

// The slices of all panels in the order of their multiplication: one step per slice.
template <class Shape>
struct PanelSteps {
  int num_depths;  // steps of a panel
  int num_steps;

  BSE_DEVICE PanelSteps(int64_t dim, int num_columns)
      : num_depths(static_cast<int>(padded_dim(dim)) / Shape::kDepth),
        num_steps((num_columns + Shape::kPanelColumns - 1) / Shape::kPanelColumns * num_depths) {}

  BSE_DEVICE int panel(int step) const { return step / num_depths; }
  BSE_DEVICE int first_element(int step) const { return step % num_depths * Shape::kDepth; }
};

// Starts copying the slice of a step. Past the last step it copies nothing.
template <class Shape>
BSE_DEVICE void fetch_step(const ScoreBlock& block, const BlockMemory<Shape>& memory, const PanelSteps<Shape>& steps,
                           int step) {
  constexpr int kPieces = Shape::kDepth / 8;  // of one candidate, in a slice
  if (step < steps.num_steps) {
    uint16_t* const panel = memory.panels + step % Shape::kStages * Shape::kPanel;
    const int first_column = steps.panel(step) * Shape::kPanelColumns, k0 = steps.first_element(step);
    BSE_UNROLL
    for (int n = 0; n < Shape::kPanelColumns * kPieces / Shape::kThreads; ++n) {
      const int piece = n * Shape::kThreads + threadIdx.x, i = piece / kPieces, k = piece % kPieces * 8;
      // Adjacent columns of an mma tile become the low and the high half of a quarter's word.
      const int column =
          first_column + i / kChunkColumns * kChunkColumns + column_in_chunk(i % 32 / 8, i % 8 / 2, i % 2);
      const bool is_column = column < memory.num_columns;
      fetch_piece(block.base, is_column, is_column ? memory.base_ids[column] : 0, k0 + k,
                  panel + i * Shape::kPitch + k);
    }
  }
  ptx::cp_async_commit();  // an empty group too, because the wait counts groups
}

// Starts copying the block's rows, as part of the next group that is committed.
template <class Shape>
BSE_DEVICE void fetch_queries(const ScoreBlock& block, const BlockMemory<Shape>& memory,
                              const BlockRows<Shape::kRows>& rows, int num_rows) {
  const int query_pieces = (memory.query_pitch - 8) / 8;
  for (int piece = threadIdx.x; piece < Shape::kRows * query_pieces; piece += Shape::kThreads) {
    const int i = piece / query_pieces, k = piece % query_pieces * 8;
    fetch_piece(block.queries, i < num_rows, i < num_rows ? rows.ids[i] : 0, k,
                memory.queries + i * memory.query_pitch + k);
  }
}

// Writes the quantized scores of a warp's rows with a chunk of columns, and sets the products to zero. In each mma tile
// a lane holds two columns of two rows that are eight apart. The two columns make one word of quantized scores.
template <class Shape, int kRowTiles, int kColumnTiles>
BSE_DEVICE void write_quantized(const BlockMemory<Shape>& memory, int chunk, int warp_row,
                                const float (&scaled_norms)[2 * kRowTiles], float (&acc)[kRowTiles][kColumnTiles][4]) {
  const int lane = threadIdx.x % 32;
  BSE_UNROLL
  for (int j = 0; j < kColumnTiles; ++j) {
    float norms[2];
    bool is_column[2];
    BSE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int column = chunk * kChunkColumns + column_in_chunk(j, lane % 4, half);
      is_column[half] = column < memory.num_columns;
      norms[half] = is_column[half] ? memory.base_norms[column] : 0.0f;
    }
    BSE_UNROLL
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      uint32_t quantized[2];
      BSE_UNROLL
      for (int half = 0; half < 2; ++half) {
        float& dot = acc[i / 2][j][i % 2 * 2 + half];
        quantized[half] = is_column[half] ? quantize_score(dot, scaled_norms[i], norms[half]) : kQuantizedFlag;
        dot = 0.0f;
      }
      memory.row(warp_row + 8 * i + lane / 4)[quarter_place(chunk, j)].words[lane % 4] =
          quantized[1] << 16 | quantized[0];
    }
  }
}

// Fills the quantized scores with all threads of the block. Needs memory.base_ids, base_norms and rows; ends with a
// barrier.
template <class Shape>
BSE_DEVICE void quantize_products(const ScoreBlock& block, const BlockMemory<Shape>& memory,
                                  const BlockRows<Shape::kRows>& rows, int num_rows) {
  const PanelSteps<Shape> steps(block.queries.dim, memory.num_columns);
  fetch_queries(block, memory, rows, num_rows);
  for (int step = 0; step < Shape::kStages - 1; ++step) fetch_step(block, memory, steps, step);

  constexpr int kRowTiles = Shape::kWarpRows / 16, kColumnTiles = Shape::kWarpColumns / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / Shape::kColumnWarps * Shape::kWarpRows, warp_chunk = warp % Shape::kColumnWarps;
  // Addresses of this lane for ldmatrix: rows of A in two halves, then elements; columns of B, two tiles at a time.
  const int a_row = warp_row + lane / 8 % 2 * 8 + lane % 8, a_element = lane / 16 * 8;
  const int b_row = warp_chunk * kChunkColumns + lane / 16 * 8 + lane % 8, b_element = lane / 8 % 2 * 8;
  float scaled_norms[2 * kRowTiles];  // of rows lane / 4 and lane / 4 + 8 of each tile
  BSE_UNROLL
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    const int row = warp_row + 8 * i + lane / 4;
    scaled_norms[i] = row < num_rows ? rows.norms[row] * kQuantizedScale : 0.0f;
  }
  float acc[kRowTiles][kColumnTiles][4] = {};
  for (int step = 0; step < steps.num_steps; ++step) {
    ptx::cp_async_wait<Shape::kStages - 2>();
    __syncthreads();  // this slice has landed for all threads, and no thread needs the one before
    fetch_step(block, memory, steps, step + Shape::kStages - 1);
    const int chunk = steps.panel(step) * Shape::kColumnWarps + warp_chunk, k0 = steps.first_element(step);
    if (chunk >= memory.num_chunks) continue;  // the whole warp skips it
    const uint16_t* base = memory.panels + step % Shape::kStages * Shape::kPanel;
    BSE_UNROLL
    for (int k = 0; k < Shape::kDepth; k += 16) {
      add_tile_products(
          acc, [&](int i) { return memory.queries + (a_row + 16 * i) * memory.query_pitch + a_element + k0 + k; },
          [&](int j) { return base + (b_row + 8 * j) * Shape::kPitch + b_element + k; });
    }
    if (k0 + Shape::kDepth < memory.query_pitch - 8) continue;  // more elements of this panel follow
    write_quantized(memory, chunk, warp_row, scaled_norms, acc);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

}  // namespace bse::cuda

// Approximate scores of bfloat16 rows by tensor cores, into a score matrix. Their error is bounded in
// csrc/common/prefilter_bound.h.
//
// A thread block computes 128 rows x 128 candidates of a group. Each of its eight warps has 64 x 32 pairs, as mma tiles
// of 16 x 8. Rows are gathered by cp.async in slices: a slice is kDepth elements of every row and candidate. kStages
// slices are in flight. Zeros follow the last element. O(rows candidates D).
#pragma once

#include "cuda/matrix_topk/score_tile.cuh"
#include "cuda/primitives/mma_tile.cuh"
#include "cuda/primitives/panel_layout.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::cuda {

struct PrefilterTile {
  static constexpr int kRows = 128, kColumns = 128, kThreads = 256;
  static constexpr int kDepth = 32, kStages = 3;
  static constexpr int kWarpRows = 64, kWarpColumns = 32;
  static constexpr int kPanel = kRows * kDepth;  // elements of one operand's stage
  static constexpr size_t kSharedBytes = device::shared_bytes<uint16_t>(2 * kStages * kPanel);
};

// scores: [num_rows, num_candidates]
__global__ void __launch_bounds__(PrefilterTile::kThreads) prefilter_kernel(ScoreBlock block, float* scores) {
  using Tile = PrefilterTile;
  using Instances = TileInstances<Tile::kRows, Tile::kColumns>;
  BSE_SHARED(Instances, tile);
  device::SharedMemory shared;
  // [stages][query, base][rows][kDepth], in PanelLayout
  uint16_t* panels = shared.take<uint16_t>(2 * Tile::kStages * Tile::kPanel);
  const TileRange<Tile::kRows, Tile::kColumns> range(block);
  if (range.num_rows <= 0 || !is_prefiltered(block)) return;  // the whole block returns
  tile.load(block, range);

  const int num_slices = static_cast<int>((block.queries.dim + Tile::kDepth - 1) / Tile::kDepth);
  const auto fetch = [&](int slice) {
    if (slice < num_slices) {
      uint16_t* stage = panels + slice % Tile::kStages * 2 * Tile::kPanel;
      const int64_t k0 = int64_t{slice} * Tile::kDepth;
      const auto fetch_operand = [&](const DeviceMatrix& matrix, const int64_t* ids, int count, uint16_t* panel) {
        fetch_panel<Tile::kRows, Tile::kThreads, Tile::kDepth>(matrix, count, [&](int i) { return ids[i]; }, k0, panel);
      };
      fetch_operand(block.queries, tile.query_ids, range.num_rows, stage);
      fetch_operand(block.base, tile.base_ids, range.num_columns, stage + Tile::kPanel);
    }
    ptx::cp_async_commit();  // an empty group too, because the wait counts groups
  };
  for (int slice = 0; slice < Tile::kStages - 1; ++slice) fetch(slice);

  constexpr int kRowTiles = Tile::kWarpRows / 16, kColumnTiles = Tile::kWarpColumns / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / (Tile::kColumns / Tile::kWarpColumns) * Tile::kWarpRows;
  const int warp_column = warp % (Tile::kColumns / Tile::kWarpColumns) * Tile::kWarpColumns;
  const SliceProducts<Tile::kDepth> products(warp_row, warp_column);
  float acc[kRowTiles][kColumnTiles][4] = {};
  for (int slice = 0; slice < num_slices; ++slice) {
    ptx::cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // this slice has landed for all threads, and no thread needs the one before
    fetch(slice + Tile::kStages - 1);
    const uint16_t* queries = panels + slice % Tile::kStages * 2 * Tile::kPanel;
    products.add(queries, queries + Tile::kPanel, acc);
  }
  ptx::cp_async_wait<0>();

  // In each mma tile a lane holds two rows, eight apart, and two adjacent columns.
  int rows[2 * kRowTiles], columns[2 * kColumnTiles];
  BSE_UNROLL
  for (int i = 0; i < 2 * kRowTiles; ++i) rows[i] = warp_row + 8 * i + lane / 4;
  BSE_UNROLL
  for (int j = 0; j < 2 * kColumnTiles; ++j) columns[j] = warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2;
  const auto dot = [&](int i, int j) { return acc[i / 2][j / 2][i % 2 * 2 + j % 2]; };
  write_scores(block, range, tile, rows, columns, dot, scores);
}

}  // namespace bse::cuda

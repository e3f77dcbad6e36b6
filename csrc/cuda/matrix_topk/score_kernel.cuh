// Exact scores of rows against candidates (csrc/common/score.h), into a score matrix in device memory.
//
//   scores[r, c] = score(query r, candidate c); NaN if the edge is not allowed (labels, max_score), and kItselfBits if
//   the candidate is the query itself
//
// A block computes a tile of one group. Both operands pass through shared memory, kDepth elements at a time. Each
// thread owns kThreadRows x kThreadColumns pairs, and its chains of fused multiply-adds run over k in order. kIsL2 is
// for that metric. O(rows candidates D). Tiles of one row serve rows with candidates of their own.
#pragma once

#include "cuda/matrix_topk/score_tile.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

template <int kThreadRows_, int kThreadColumns_, int kRowThreads, int kColumnThreads>
struct ScoreTile {
  static constexpr int kThreadRows = kThreadRows_, kThreadColumns = kThreadColumns_;
  static constexpr int kRows = kThreadRows * kRowThreads, kColumns = kThreadColumns * kColumnThreads;
  static constexpr int kThreads = kRowThreads * kColumnThreads, kDepth = 16;
};
using WideTile = ScoreTile<8, 8, 16, 16>;  // groups that share their candidates
using RowTile = ScoreTile<1, 1, 1, 128>;   // a row with its own

// scores: [num_rows, num_candidates]
template <class Tile, bool kIsL2>
__global__ void __launch_bounds__(Tile::kThreads) score_kernel(ScoreBlock block, float* scores) {
  constexpr int kDepth = Tile::kDepth, kRows = Tile::kRows, kColumns = Tile::kColumns;
  constexpr int kColumnThreads = kColumns / Tile::kThreadColumns;
  using Instances = TileInstances<kRows, kColumns>;
  // The padding spreads the transposing stores over the banks.
  BSE_SHARED(float, query_panel, [kDepth][kRows + 1]);
  BSE_SHARED(float, base_panel, [kDepth][kColumns + 1]);
  BSE_SHARED(Instances, tile);
  const TileRange<kRows, kColumns> range(block);
  if (range.num_rows <= 0 || is_prefiltered(block)) return;  // the whole block returns
  tile.load(block, range);

  const int row_thread = threadIdx.x / kColumnThreads, column_thread = threadIdx.x % kColumnThreads;
  float acc[Tile::kThreadRows][Tile::kThreadColumns] = {};
  const int64_t dim = block.queries.dim;
  for (int64_t k0 = 0; k0 < dim; k0 += kDepth) {
    const int depth = static_cast<int>(dim - k0 < kDepth ? dim - k0 : kDepth);
    for (int e = threadIdx.x; e < kRows * kDepth; e += Tile::kThreads) {
      const int i = e / kDepth, k = e % kDepth;
      const bool is_inside = i < range.num_rows && k < depth;
      query_panel[k][i] = is_inside ? block.queries.element(tile.query_ids[i], k0 + k) : 0.0f;
    }
    for (int e = threadIdx.x; e < kColumns * kDepth; e += Tile::kThreads) {
      const int i = e / kDepth, k = e % kDepth;
      const bool is_inside = i < range.num_columns && k < depth;
      base_panel[k][i] = is_inside ? block.base.element(tile.base_ids[i], k0 + k) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k) {
      float query[Tile::kThreadRows], base[Tile::kThreadColumns];
      BSE_UNROLL
      for (int i = 0; i < Tile::kThreadRows; ++i) query[i] = query_panel[k][row_thread * Tile::kThreadRows + i];
      BSE_UNROLL
      for (int j = 0; j < Tile::kThreadColumns; ++j) base[j] = base_panel[k][column_thread + j * kColumnThreads];
      BSE_UNROLL
      for (int i = 0; i < Tile::kThreadRows; ++i) {
        BSE_UNROLL
        for (int j = 0; j < Tile::kThreadColumns; ++j) {
          acc[i][j] = add_dimension<kIsL2>(acc[i][j], query[i], base[j]);
        }
      }
    }
    __syncthreads();
  }

  int rows[Tile::kThreadRows], columns[Tile::kThreadColumns];
  BSE_UNROLL
  for (int i = 0; i < Tile::kThreadRows; ++i) rows[i] = row_thread * Tile::kThreadRows + i;
  BSE_UNROLL
  for (int j = 0; j < Tile::kThreadColumns; ++j) columns[j] = column_thread + j * kColumnThreads;
  write_scores(block, range, tile, rows, columns, [&](int i, int j) { return acc[i][j]; }, scores);
}

}  // namespace bse::cuda

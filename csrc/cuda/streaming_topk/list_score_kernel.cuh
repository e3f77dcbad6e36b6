// Candidate lists by exact scores (csrc/common/score.h), for any metric and dtype, and for rows without an error bound.
//
// A thread block scores a tile of 128 rows against tiles of 128 columns. Both pass through shared memory, kDepth
// elements at a time. Each thread owns 8 x 8 pairs, and its chains of fused multiply-adds run over k in order. kIsL2 is
// for that metric. O(rows columns D).
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/streaming_topk/list_rows.cuh"
#include "cuda/types/score_block.h"

namespace bse::cuda {

struct ListScoreTile {
  static constexpr int kSize = CandidateLists::kTile, kThreads = 256, kDepth = 16;
  // A thread has adjacent rows, and columns in two runs of four. Both are read 16 bytes at a time.
  static constexpr int kThreadRows = 8, kThreadColumns = 8, kColumnThreads = kSize / kThreadColumns;
  static constexpr int kPitch = kSize + 4;  // so that the transposing stores fall into different banks
};

template <bool kIsL2>
__global__ void __launch_bounds__(ListScoreTile::kThreads, tuning::kListBlocksPerMultiprocessor)
    list_score_kernel(ScoreBlock block, CandidateLists lists) {
  using Tile = ListScoreTile;
  BSE_SHARED(float, query_panel, [Tile::kDepth][Tile::kPitch]);
  BSE_SHARED(float, base_panel, [Tile::kDepth][Tile::kPitch]);
  BSE_SHARED(ListRowState, state);
  if (is_prefiltered(block)) return;  // the whole block returns
  const ListRange range(block, lists);
  ListRows<false> rows(block, lists, range, state);

  const int first_row = threadIdx.x / Tile::kColumnThreads * Tile::kThreadRows;
  const int first_column = threadIdx.x % Tile::kColumnThreads * 4;
  const int64_t dim = block.queries.dim;
  for (int64_t column = range.column_begin; column < range.column_end; column += Tile::kSize) {
    const int64_t left = range.column_end - column;
    const int columns_left = static_cast<int>(left < Tile::kSize ? left : Tile::kSize);
    float acc[Tile::kThreadRows][Tile::kThreadColumns] = {};
    for (int64_t k0 = 0; k0 < dim; k0 += Tile::kDepth) {
      const int depth = static_cast<int>(dim - k0 < Tile::kDepth ? dim - k0 : Tile::kDepth);
      for (int e = threadIdx.x; e < Tile::kSize * Tile::kDepth; e += Tile::kThreads) {
        const int i = e / Tile::kDepth, k = e % Tile::kDepth;
        const bool is_row = i < range.num_rows && k < depth, is_column = i < columns_left && k < depth;
        query_panel[k][i] = is_row ? block.queries.element(state.query_ids[i], k0 + k) : 0.0f;
        base_panel[k][i] = is_column ? block.base.element(block.base_id(column + i), k0 + k) : 0.0f;
      }
      __syncthreads();
      for (int k = 0; k < depth; ++k) {
        float query[Tile::kThreadRows], base[Tile::kThreadColumns];
        BSE_UNROLL
        for (int h = 0; h < 2; ++h) {
          const float4 q = *reinterpret_cast<const float4*>(&query_panel[k][first_row + 4 * h]);
          const float4 b = *reinterpret_cast<const float4*>(&base_panel[k][first_column + Tile::kSize / 2 * h]);
          query[4 * h] = q.x, query[4 * h + 1] = q.y, query[4 * h + 2] = q.z, query[4 * h + 3] = q.w;
          base[4 * h] = b.x, base[4 * h + 1] = b.y, base[4 * h + 2] = b.z, base[4 * h + 3] = b.w;
        }
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
    rows.cut_full();

    float column_norms[Tile::kThreadColumns];
    BSE_UNROLL
    for (int j = 0; j < Tile::kThreadColumns; ++j) {
      const int c = first_column + j / 4 * (Tile::kSize / 2) + j % 4;
      column_norms[j] = c < columns_left ? block.base_norms[column + c] : 0.0f;
    }
    BSE_UNROLL
    for (int i = 0; i < Tile::kThreadRows; ++i) {
      const int row = first_row + i;
      const float gate = state.gates[row], norm = state.norms[row];
      BSE_UNROLL
      for (int j = 0; j < Tile::kThreadColumns; ++j) {
        const float score = finish_score(block.selection.metric, acc[i][j], norm, column_norms[j]);
        if (!(score >= gate)) continue;  // skips NaN too
        rows.append(row, static_cast<uint32_t>(column) + first_column + j / 4 * (Tile::kSize / 2) + j % 4, score);
      }
    }
  }
  rows.finish();
}

}  // namespace bse::cuda

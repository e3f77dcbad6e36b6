// Scores of rows against candidates, to the bit (csrc/common/score.h), into a slab in device memory.
//
//   slab[r, c] = score(query r, candidate c); NaN where the link is forbidden (labels, max_score), and kItself where
//   the candidate is the query itself
//
// A block computes a tile of one group: both operands are brought through shared memory, kDepth elements at a time,
// and each thread owns kThreadRows x kThreadColumns pairs, whose chains of fused multiply-adds run over k in order.
// O(rows candidates D). Tiles of one row serve rows with candidates of their own.
#pragma once

#include "../common/score.h"
#include "device.h"
#include "score_block.h"

namespace bse::cuda {

template <int kThreadRows_, int kThreadColumns_, int kRowThreads, int kColumnThreads>
struct ScoreTile {
  static constexpr int kThreadRows = kThreadRows_, kThreadColumns = kThreadColumns_;
  static constexpr int kRows = kThreadRows * kRowThreads, kColumns = kThreadColumns * kColumnThreads;
  static constexpr int kThreads = kRowThreads * kColumnThreads, kDepth = 16;
};
using WideTile = ScoreTile<8, 8, 16, 16>;  // groups that share their candidates
using RowTile = ScoreTile<1, 1, 1, 128>;   // a row with its own

// grid: (tiles of candidates, tiles of rows, groups)      slab: [num_rows, num_candidates]
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads) score_kernel(ScoreBlock block, float* slab) {
  constexpr int kDepth = Tile::kDepth, kRows = Tile::kRows, kColumns = Tile::kColumns;
  // Padded, so that neither the transposing stores nor the loads of a thread's rows meet in a bank more than need be.
  BSE_SHARED(float, query_panel, [kDepth][kRows + 1]);
  BSE_SHARED(float, base_panel, [kDepth][kColumns + 1]);
  BSE_SHARED(int64_t, query_ids, [kRows]);
  BSE_SHARED(int64_t, base_ids, [kColumns]);
  BSE_SHARED(float, query_terms, [kRows]);
  BSE_SHARED(float, base_terms, [kColumns]);

  const int64_t group = blockIdx.z, group_begin = group * block.rows_per_group;
  const int64_t group_end =
      group_begin + block.rows_per_group < block.num_rows ? group_begin + block.rows_per_group : block.num_rows;
  const int64_t row_begin = group_begin + int64_t{blockIdx.y} * kRows, column_begin = int64_t{blockIdx.x} * kColumns;
  if (row_begin >= group_end) return;  // the whole block
  const int num_rows = static_cast<int>(group_end - row_begin < kRows ? group_end - row_begin : kRows);
  const int64_t columns_left = block.num_candidates - column_begin;
  const int num_columns = static_cast<int>(columns_left < kColumns ? columns_left : kColumns);

  for (int i = threadIdx.x; i < num_rows; i += Tile::kThreads) {
    const int64_t row = block.query_row(block.first_row + row_begin + i);
    query_ids[i] = block.query_id(row);
    query_terms[i] = block.query_terms[row];
  }
  for (int i = threadIdx.x; i < num_columns; i += Tile::kThreads) {
    const int64_t row = block.candidate_row(group, column_begin + i);
    base_ids[i] = block.base_id(row);
    base_terms[i] = block.base_terms[row];
  }
  __syncthreads();

  const int row_thread = threadIdx.x / (kColumns / Tile::kThreadColumns);
  const int column_thread = threadIdx.x % (kColumns / Tile::kThreadColumns);
  float acc[Tile::kThreadRows][Tile::kThreadColumns] = {};
  const int64_t dim = block.queries.dim;
  for (int64_t k0 = 0; k0 < dim; k0 += kDepth) {
    const int depth = static_cast<int>(dim - k0 < kDepth ? dim - k0 : kDepth);
    for (int e = threadIdx.x; e < kRows * kDepth; e += Tile::kThreads) {
      const int i = e / kDepth, k = e % kDepth;
      query_panel[k][i] = i < num_rows && k < depth ? block.queries.element(query_ids[i], k0 + k) : 0.0f;
    }
    for (int e = threadIdx.x; e < kColumns * kDepth; e += Tile::kThreads) {
      const int i = e / kDepth, k = e % kDepth;
      base_panel[k][i] = i < num_columns && k < depth ? block.base.element(base_ids[i], k0 + k) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k) {  // never past the end: -0 + 0 * 0 is not -0
      float query[Tile::kThreadRows], base[Tile::kThreadColumns];
      BSE_UNROLL
      for (int i = 0; i < Tile::kThreadRows; ++i) query[i] = query_panel[k][row_thread * Tile::kThreadRows + i];
      BSE_UNROLL
      for (int j = 0; j < Tile::kThreadColumns; ++j) {
        base[j] = base_panel[k][column_thread + j * (kColumns / Tile::kThreadColumns)];
      }
      BSE_UNROLL
      for (int i = 0; i < Tile::kThreadRows; ++i) {
        BSE_UNROLL
        for (int j = 0; j < Tile::kThreadColumns; ++j) acc[i][j] = fmaf(query[i], base[j], acc[i][j]);
      }
    }
    __syncthreads();
  }

  const Selection& selection = block.selection;
  BSE_UNROLL
  for (int i = 0; i < Tile::kThreadRows; ++i) {
    const int row = row_thread * Tile::kThreadRows + i;
    if (row >= num_rows) break;
    const int64_t query = query_ids[row];
    const int64_t label = selection.labels != nullptr ? selection.labels[query] : -1;
    float* out = slab + (row_begin + row) * block.num_candidates + column_begin;
    BSE_UNROLL
    for (int j = 0; j < Tile::kThreadColumns; ++j) {
      const int column = column_thread + j * (kColumns / Tile::kThreadColumns);
      if (column >= num_columns) break;
      const int64_t candidate = base_ids[column];
      float score = finish_score(selection.metric, acc[i][j], query_terms[row], base_terms[column]);
      const bool is_forbidden = (selection.has_max_score && score > selection.max_score) ||
                                (label >= 0 && selection.labels[candidate] == label);
      if (is_forbidden) score = __uint_as_float(0x7FC00000u);
      if (block.exclude_self && candidate == query) score = __uint_as_float(kItselfBits);
      out[column] = score;
    }
  }
}

}  // namespace bse::cuda

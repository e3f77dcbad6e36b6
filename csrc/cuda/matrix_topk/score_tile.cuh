// Shared by the kernels that fill a score matrix: the tile of pairs of a thread block, and the writing of its scores.
#pragma once

#include "common/score.h"
#include "cuda/runtime/device.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// The rows and candidates of one thread block: a tile of kRows x kColumns of one group.
// grid: (tiles, 1, groups), where the candidate tiles of one row tile are adjacent
template <int kRows, int kColumns>
struct TileRange {
  int64_t group, row_begin, column_begin;  // row_begin: row of the score matrix
  int num_rows, num_columns;               // num_rows <= 0: nothing to do

  BSE_DEVICE explicit TileRange(const ScoreBlock& block) : group(blockIdx.z) {
    const auto tiles_per_row = static_cast<unsigned>((block.num_candidates + kColumns - 1) / kColumns);
    row_begin = group * block.rows_per_group + int64_t{blockIdx.x / tiles_per_row} * kRows;
    column_begin = int64_t{blockIdx.x % tiles_per_row} * kColumns;
    int64_t group_end = (group + 1) * block.rows_per_group;
    if (group_end > block.num_rows) group_end = block.num_rows;
    num_rows = static_cast<int>(group_end - row_begin < kRows ? group_end - row_begin : kRows);
    const int64_t columns_left = block.num_candidates - column_begin;
    num_columns = static_cast<int>(columns_left < kColumns ? columns_left : kColumns);
  }
};

// Ids and norms of the rows and columns of a tile, in shared memory.
template <int kRows, int kColumns>
struct TileInstances {
  int64_t query_ids[kRows], base_ids[kColumns];
  float query_norms[kRows], base_norms[kColumns];

  // Ends with a barrier.
  BSE_DEVICE void load(const ScoreBlock& block, const TileRange<kRows, kColumns>& range) {
    for (int i = threadIdx.x; i < range.num_rows; i += blockDim.x) {
      const int64_t row = block.query_row(block.first_row + range.row_begin + i);
      query_ids[i] = block.query_id(row);
      query_norms[i] = block.query_norms[row];
    }
    for (int i = threadIdx.x; i < range.num_columns; i += blockDim.x) {
      const int64_t row = block.candidate_row(range.group, range.column_begin + i);
      base_ids[i] = block.base_id(row);
      base_norms[i] = block.base_norms[row];
    }
    __syncthreads();
  }
};

// Writes the scores of a thread's pairs. rows, columns: indices in the tile; those past its end are skipped. chain(i,
// j): of the i-th row and j-th column, for finish_score().
template <int kThreadRows, int kThreadColumns, class Range, class Instances, class Chain>
BSE_DEVICE void write_scores(const ScoreBlock& block, const Range& range, const Instances& tile,
                             const int (&rows)[kThreadRows], const int (&columns)[kThreadColumns], const Chain& chain,
                             float* scores) {
  const Selection& selection = block.selection;
  int64_t base_ids[kThreadColumns], base_labels[kThreadColumns];
  float base_norms[kThreadColumns];
  BSE_UNROLL
  for (int j = 0; j < kThreadColumns; ++j) {
    const bool is_inside = columns[j] < range.num_columns;
    base_ids[j] = is_inside ? tile.base_ids[columns[j]] : -1;
    base_norms[j] = is_inside ? tile.base_norms[columns[j]] : 0.0f;
    base_labels[j] = is_inside && selection.labels != nullptr ? selection.labels[base_ids[j]] : -1;
  }
  BSE_UNROLL
  for (int i = 0; i < kThreadRows; ++i) {
    const bool is_row = rows[i] < range.num_rows;
    const int64_t query = is_row ? tile.query_ids[rows[i]] : -1;
    const float query_norm = is_row ? tile.query_norms[rows[i]] : 0.0f;
    const int64_t label = is_row && selection.labels != nullptr ? selection.labels[query] : -1;
    float* out = scores + (range.row_begin + rows[i]) * block.num_candidates + range.column_begin;
    BSE_UNROLL
    for (int j = 0; j < kThreadColumns; ++j) {
      float score = finish_score(selection.metric, chain(i, j), query_norm, base_norms[j]);
      const bool has_same_label = label >= 0 && label == base_labels[j];
      if (has_same_label || (selection.has_max_score && score > selection.max_score)) {
        score = __uint_as_float(0x7FC00000u);
      }
      if (block.exclude_self && base_ids[j] == query) score = __uint_as_float(kItselfBits);
      if (is_row && columns[j] < range.num_columns) out[columns[j]] = score;
    }
  }
}

}  // namespace bse::cuda

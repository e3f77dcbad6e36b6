// What the kernels that fill a slab of scores have in common: which pairs a thread block has, and what becomes of a
// score.
#pragma once

#include "../common/score.h"
#include "device.h"
#include "score_block.h"

namespace bse::cuda {

// The rows and candidates of one thread block: a tile of kRows x kColumns of one group.
// grid: (tiles of candidates, tiles of rows, groups)
template <int kRows, int kColumns>
struct TileRange {
  int64_t group, row_begin, column_begin;  // row_begin: of all rows of the slab
  int num_rows, num_columns;               // num_rows <= 0: nothing to do

  BSE_DEVICE explicit TileRange(const ScoreBlock& block)
      : group(blockIdx.z),
        row_begin(group * block.rows_per_group + int64_t{blockIdx.y} * kRows),
        column_begin(int64_t{blockIdx.x} * kColumns) {
    int64_t group_end = (group + 1) * block.rows_per_group;
    if (group_end > block.num_rows) group_end = block.num_rows;
    num_rows = static_cast<int>(group_end - row_begin < kRows ? group_end - row_begin : kRows);
    const int64_t columns_left = block.num_candidates - column_begin;
    num_columns = static_cast<int>(columns_left < kColumns ? columns_left : kColumns);
  }
};

// Who the rows and columns of a tile are; in shared memory.
template <int kRows, int kColumns>
struct TileInstances {
  int64_t query_ids[kRows], base_ids[kColumns];
  float query_terms[kRows], base_terms[kColumns];

  // Ends with a barrier.
  BSE_DEVICE void load(const ScoreBlock& block, const TileRange<kRows, kColumns>& range) {
    for (int i = threadIdx.x; i < range.num_rows; i += blockDim.x) {
      const int64_t row = block.query_row(block.first_row + range.row_begin + i);
      query_ids[i] = block.query_id(row);
      query_terms[i] = block.query_terms[row];
    }
    for (int i = threadIdx.x; i < range.num_columns; i += blockDim.x) {
      const int64_t row = block.candidate_row(range.group, range.column_begin + i);
      base_ids[i] = block.base_id(row);
      base_terms[i] = block.base_terms[row];
    }
    __syncthreads();
  }

  // The slab's entry of a pair whose dot product is `acc`.      label: of the query, or negative
  BSE_DEVICE float entry(const ScoreBlock& block, int row, int column, float acc, int64_t label) const {
    const Selection& selection = block.selection;
    const float score = finish_score(selection.metric, acc, query_terms[row], base_terms[column]);
    if (block.exclude_self && base_ids[column] == query_ids[row]) return __uint_as_float(kItselfBits);
    const bool is_forbidden = (selection.has_max_score && score > selection.max_score) ||
                              (label >= 0 && selection.labels[base_ids[column]] == label);
    return is_forbidden ? __uint_as_float(0x7FC00000u) : score;
  }

  BSE_DEVICE int64_t label(const ScoreBlock& block, int row) const {
    return block.selection.labels != nullptr ? block.selection.labels[query_ids[row]] : -1;
  }
};

BSE_DEVICE bool is_screened(const ScoreBlock& block) { return block.unbounded != nullptr && *block.unbounded == 0; }

}  // namespace bse::cuda

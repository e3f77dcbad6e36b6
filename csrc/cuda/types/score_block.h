// Arguments that the scoring and selecting kernels share: which rows are scored against which candidates.
#pragma once

#include "cuda/types/requests.h"

namespace bse::cuda {

// Marks the pair of a row and itself: a NaN that no arithmetic produces.
constexpr uint32_t kItselfBits = 0xFFFFFFFFu;

// Groups of rows, and the candidates of each group. Groups are counted from the first one at hand: row r of group g has
// position first_row + g * rows_per_group + r. Its edges go to result row query_row(position).
struct ScoreBlock {
  DeviceMatrix queries, base;
  const float* query_norms;    // row_norm() of each subset row (csrc/common/score.h)
  const float* base_norms;     // row_norm() of each subset row
  const int64_t* query_ids;    // [subset rows] instance id, or null: the row number
  const int64_t* base_ids;     // [subset rows] instance id, or null: the row number
  const uint32_t* order;       // [num_rows] subset row at each position, or null: the position
  const uint32_t* candidates;  // [num_groups, candidates_stride] subset rows, or null: all base rows in order
  int64_t candidates_stride;
  int64_t first_row, num_rows;  // the positions of all groups: [first_row, first_row + num_rows)
  int64_t rows_per_group;
  int64_t num_candidates;  // per group: columns of the scores
  bool exclude_self;       // a pair of equal ids scores kItselfBits
  Selection selection;
  // unbounded: null without prefilter. Otherwise a device word, nonzero if the error bound fails for some row. Then the
  // matrix and streaming engines score all rows exactly, the fused engine only the affected rows.
  // margin: twice the error bound of the approximate scores in a score matrix.
  const uint32_t* unbounded;
  double margin;

  BSE_HOST_DEVICE int64_t query_row(int64_t position) const { return order != nullptr ? order[position] : position; }
  BSE_HOST_DEVICE int64_t query_id(int64_t row) const { return query_ids != nullptr ? query_ids[row] : row; }
  BSE_HOST_DEVICE int64_t base_id(int64_t row) const { return base_ids != nullptr ? base_ids[row] : row; }
  BSE_HOST_DEVICE int64_t candidate_row(int64_t group, int64_t c) const {
    return candidates != nullptr ? candidates[group * candidates_stride + c] : c;
  }
};

// Returns whether the score matrix or the candidate lists hold approximate scores. Device only: reads device memory.
BSE_HOST_DEVICE inline bool is_prefiltered(const ScoreBlock& block) {
  return block.unbounded != nullptr && *block.unbounded == 0;
}

// How edges are selected from the rows of a score matrix.
struct SelectPlan {
  bool excludes_last;    // a row without kItselfBits among its scores drops its last column
  uint32_t sort_length;  // a power of two of at least K, or 0: edges stay in column order
  bool sort_is_shared;   // ranks are sorted in shared memory, else in a scratch buffer of each thread block
};

}  // namespace bse::cuda

// Which rows are scored against which candidates: what the scoring and the selecting kernel agree on.
#pragma once

#include "cuda/types/requests.h"

namespace bse::cuda {

// A NaN that no arithmetic makes: the pair of a row and itself.
constexpr uint32_t kItselfBits = 0xFFFFFFFFu;

// Which rows meet which candidates. Row r of group g is position g * rows_per_group + r of the queries, and result row
// of the edges.
struct ScoreBlock {
  DeviceMatrix queries, base;
  const float* query_norms;    // by subset row
  const float* base_norms;     // by subset row
  const int64_t* query_ids;    // [subset rows] instance, or null: the row itself
  const int64_t* base_ids;     // [subset rows] likewise
  const uint32_t* order;       // [num_rows] subset row at a position, or null: the position itself
  const uint32_t* candidates;  // [num_groups, candidates_stride] subset rows, or null: all base rows in order
  int64_t candidates_stride;
  int64_t first_row, num_rows;  // positions of all groups at hand: [first_row, first_row + num_rows)
  int64_t rows_per_group;
  int64_t num_candidates;  // of a group: columns of the scores
  bool exclude_self;       // the pair of equal ids becomes kItself
  Selection selection;
  // Prefiltering (prefilter_kernel.cuh). Null: none. A word that is not 0 if some row has no bound: then there is none
  // either. Else the scores's scores are within margin / 2 of the defined ones.
  const uint32_t* unbounded;
  double margin;

  BSE_HOST_DEVICE int64_t query_row(int64_t position) const { return order != nullptr ? order[position] : position; }
  BSE_HOST_DEVICE int64_t query_id(int64_t row) const { return query_ids != nullptr ? query_ids[row] : row; }
  BSE_HOST_DEVICE int64_t base_id(int64_t row) const { return base_ids != nullptr ? base_ids[row] : row; }
  BSE_HOST_DEVICE int64_t candidate_row(int64_t group, int64_t c) const {
    return candidates != nullptr ? candidates[group * candidates_stride + c] : c;
  }
};

// Read on the device.
BSE_HOST_DEVICE inline bool is_prefiltered(const ScoreBlock& block) {
  return block.unbounded != nullptr && *block.unbounded == 0;
}

// How the rows of a scores of scores are selected from.
struct SelectPlan {
  bool excludes_last;    // a row without kItself among its scores loses its last column
  uint32_t sort_length;  // a power of two of at least K, or 0: edges stay in column order
  bool sort_is_shared;   // ranks are sorted in shared memory, else in a scratch buffer of each thread block
};

}  // namespace bse::cuda

// Lists of the candidates that may be among the best of a row. They find exact neighbors without a matrix of all
// scores.
//
// A thread block scores a tile of rows against the columns of one split of the base, in order. Scores that reach the
// limit of their row are appended. A list longer than most() is cut (list_cut.cuh) before the next tile, so there is
// always room for a tile's columns. No candidate that could become an edge is dropped.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace bse::cuda {

// An entry is candidate_rank(score, column), with the column among base rows. Smaller is better, and all are distinct.
struct CandidateLists {
  static constexpr int kTile = 128;  // rows, and columns, of a thread block at a time

  uint64_t* entries;  // [rows, num_splits, capacity]
  uint32_t* counts;   // [rows, num_splits]
  uint32_t capacity;  // most() + kTile
  uint32_t num_selected;
  uint32_t num_splits;
  int64_t columns_per_split;  // a multiple of kTile
  // Twice the error bound of approximate scores, plus rounding. A candidate further below num_selected others is out.
  float margin;

  BSE_HOST_DEVICE uint32_t most() const { return capacity - kTile; }
  // A cut leaves num_selected to max_cut() entries, or fewer if there are fewer candidates. If scores are approximate,
  // it leaves up to room().
  BSE_HOST_DEVICE uint32_t max_cut() const { return num_selected + (most() - num_selected) / 8; }
  BSE_HOST_DEVICE uint32_t room() const { return (num_selected + most()) / 2; }
};

}  // namespace bse::cuda

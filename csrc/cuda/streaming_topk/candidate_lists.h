// Lists of the candidates that may be among the best of a row: what exact neighbors are found with when not all scores
// are kept.
//
// A thread block meets a tile of rows with the columns of one split of the base, in order. Scores that reach their
// row's limit are appended; a list that grows beyond `most` is cut (list_cut.cuh) before the next tile, which always
// leaves room for a tile's columns. Nothing that could be linked is ever dropped.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace bse::cuda {

// An entry is candidate_rank(score, column), with the column among base rows: smaller is better, all are distinct.
struct CandidateLists {
  static constexpr int kTile = 128;  // rows, and columns, that a thread block takes at a time

  uint64_t* entries;  // [rows, num_splits, capacity]
  uint32_t* counts;   // [rows, num_splits]
  uint32_t capacity;  // most + kTile
  uint32_t num_selected;
  uint32_t num_splits;
  int64_t columns_per_split;  // a multiple of kTile
  // Of approximate scores: who is further below num_selected others is not among the best; twice their error, and more.
  float margin;

  BSE_HOST_DEVICE uint32_t most() const { return capacity - kTile; }
  // A cut leaves from num_selected to max_cut() entries, or fewer if there are not as many candidates; where scores
  // are approximate up to room().
  BSE_HOST_DEVICE uint32_t max_cut() const { return num_selected + (most() - num_selected) / 8; }
  BSE_HOST_DEVICE uint32_t room() const { return (num_selected + most()) / 2; }
};

}  // namespace bse::cuda

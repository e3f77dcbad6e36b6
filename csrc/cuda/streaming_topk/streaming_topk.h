// Exact neighbors by candidate lists: sizes of the lists, number of splits, and the launches.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/scratch.h"
#include "cuda/streaming_topk/candidate_lists.h"
#include "cuda/streaming_topk/narrow_labels.h"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Number of best candidates to find per row: range_min + K, at most the size of the base.
int64_t num_list_selected(const KnnRequest& request);

// Returns whether candidate lists can and should be used: few neighbors among many candidates.
bool lists_pay(const KnnRequest& request);

// Returns whether tensor cores can prefilter the request, provided that the error bound holds for all rows.
bool can_prefilter_lists(const KnnRequest& request);

class ListSearch {
 public:
  // Entries that a list has room for.
  static int64_t capacity(const KnnRequest& request);

  // Returns how many rows at a time have lists within num_bytes; at least one.
  static int64_t rows_at_once(const KnnRequest& request, size_t num_bytes);

  // Takes the lists of `rows_at_once` rows from scratch, in as many splits as pay and as `max_bytes` has room for.
  ListSearch(const KnnRequest& request, int64_t rows_at_once, size_t max_bytes, Scratch& scratch);

  // Launches the work that all blocks of a request share. Call it before launch().
  void launch_preparation(const KnnRequest& request, device::Stream stream) const;

  // Writes the edges of the rows of `block`.
  void launch(const ScoreBlock& block, const Edges& edges, device::Stream stream) const;

 private:
  CandidateLists lists_{};
  NarrowLabels labels_;
  uint32_t sort_length_ = 32;
  int64_t max_splits_;
};

}  // namespace bse::cuda

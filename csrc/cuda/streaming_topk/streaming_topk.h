// Exact neighbors by candidate lists: how many rows at a time, how many splits, and the launches.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/scratch.h"
#include "cuda/streaming_topk/candidate_lists.h"
#include "cuda/streaming_topk/narrow_labels.h"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// How many best candidates of a row have to be found.
int64_t num_list_selected(const KnnRequest& request);

// Whether lists can and should be used: not for many neighbors, nor of few candidates.
bool lists_pay(const KnnRequest& request);

// Whether tensor cores can prefilter the rows, unless some has no bound.
bool can_prefilter_lists(const KnnRequest& request);

class ListSearch {
 public:
  // Entries of a list.
  static int64_t capacity(const KnnRequest& request);

  // Rows at a time that fill so many bytes, at least one.
  static int64_t rows_at_once(const KnnRequest& request, size_t num_bytes);

  // Takes the lists of so many rows at a time, in as many splits as `max_bytes` have room for and pay.
  ListSearch(const KnnRequest& request, int64_t rows_at_once, size_t max_bytes, Scratch& scratch);

  // What all blocks of a request share; to be launched before them.
  void launch_preparation(const KnnRequest& request, device::Stream stream) const;

  // Writes the edges of the block's rows.
  void launch(const ScoreBlock& block, const Edges& edges, device::Stream stream) const;

 private:
  CandidateLists lists_{};
  NarrowLabels labels_;
  uint32_t sort_length_ = 32;
  int64_t max_splits_;
};

}  // namespace bse::cuda

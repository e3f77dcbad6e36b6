// Fused similarity and top-k selection: what proximity graphs, exact kNN graphs and kNN search share.
//
// A block of rows is scored against a block of candidates at a time, with the feature dimension cut into depth blocks,
// so that scratch is bounded whatever N, M and D are; scores go straight into each row's TopKBuffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "huge_pages.h"
#include "matrix_view.h"
#include "similarity_kernels.h"
#include "thread_team.h"
#include "top_k_buffer.h"

namespace bse {

// What is asked of every row: which candidates may be linked, how many, and how they are listed.
struct Selection {
  Metric metric = Metric::kCosine;
  int64_t num_neighbors = 0;        // K: columns of the result
  int64_t range_min = 0;            // best candidates skipped before K are kept
  const int64_t* labels = nullptr;  // [N] or null; equal labels >= 0 are not linked
  bool has_max_score = false;
  float max_score = 0.0f;  // candidates scoring above it are not linked
  bool sort = false;       // list by (score descending, id) instead of draw order
};

// Where the results go. Rows are indices of the result, not instance ids.
struct Links {
  int32_t* neighbors;  // [R, K], a valid prefix then -1
  float* scores;       // [R, K] or null; -inf past the prefix

  void prefer_huge_pages(int64_t num_rows, int64_t num_neighbors) const {
    bse::prefer_huge_pages(neighbors, 4 * num_rows * num_neighbors);
    bse::prefer_huge_pages(scores, 4 * num_rows * num_neighbors);
  }
};

// Sizes of a block and what one thread's workspace takes.
struct BlockPlan {
  int64_t row_block = 256, candidate_block = 1024, depth_block = 256;
  int64_t top_k_capacity = 0;
  int num_threads = 1;

  // Shrinks the default blocks until the workspaces of all threads fit into `budget_bytes` (fewer threads last).
  // `extra_bytes` is what a worker needs beside its workspace. Throws std::length_error, naming max_memory and what it
  // would take, if the smallest does not fit. `fixed_bytes` only serves that message.
  static BlockPlan fit(const Selection& selection, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                       int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes);

  int64_t workspace_bytes(int64_t dim) const;

  // Rows whose scores are held at a time: few enough to stay in L2, if the panels need not be packed again for them.
  int64_t stripe_rows(int64_t dim) const { return dim <= depth_block ? std::min<int64_t>(64, row_block) : row_block; }
};

// row_term() of each of `ids` (null: all rows 0..count-1) under the metric: out[i] belongs to ids[i].
// Also the one place where non-finite features are found: throws std::invalid_argument "NAME[row, column]: expected
// finite values, got nan".
void compute_row_terms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out);

// One thread's scratch, and the scoring of one block of rows against any number of candidates.
class BlockScorer {
 public:
  BlockScorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base, const Selection& selection);

  // Starts a block of rows. Arrays are borrowed until finish_row.    query_ids: [num_rows]; query_terms: [num_rows]
  void begin(const int64_t* query_ids, const float* query_terms, int64_t num_rows);

  // Offers candidates in tiebreak order to all rows of the block. Returns false if the worker was told to stop.
  // candidate_ids, candidate_terms: [count]; excluded: [num_rows], an index in [0, count) never to be linked, or -1
  bool offer(const int64_t* candidate_ids, const float* candidate_terms, int64_t count, const int64_t* excluded,
             Worker& worker);

  // Writes row i of the block as row `result_row` of the links. tiebreak_ids: ids by tiebreak, as offered.
  void finish_row(int64_t i, const int64_t* tiebreak_ids, int64_t result_row, const Links& links);

 private:
  static const float kNaN;

  void pack(const int64_t* candidate_ids, int64_t count, int64_t first_k, int64_t depth);
  bool accumulate(int64_t first_row, int64_t num_rows, int64_t count, int64_t first_k, int64_t depth, Worker& worker);
  void select(int64_t i, float* scores, const int64_t* candidate_ids, int64_t count, uint32_t first_tiebreak);

  const BlockPlan plan_;
  const MatrixView queries_, base_;
  const Selection selection_;
  const SimilarityKernels& kernels_;

  const int64_t* query_ids_ = nullptr;
  const float* query_terms_ = nullptr;
  int64_t num_rows_ = 0;

  AlignedBuffer<float> panels_;          // [candidate_block / panel_width][depth_block][panel_width]
  AlignedBuffer<float> scores_;          // [stripe_rows][candidate_block]
  AlignedBuffer<float> converted_rows_;  // [row_block][depth_block], for features not read in place
  AlignedBuffer<float> converted_;       // [panel_width][depth_block], likewise for candidates
  AlignedBuffer<float> kept_scores_;     // [row_block][top_k_capacity]
  AlignedBuffer<uint32_t> kept_tiebreaks_;
  AlignedBuffer<uint64_t> ranks_;  // [top_k_capacity], to sort
  std::vector<const float*> rows_;
  std::vector<TopKBuffer> buffers_;
};

}  // namespace bse

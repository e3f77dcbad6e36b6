// Selects the best candidates of each row of a block, by exact scores or by prefilter and rescore (prefilter.h). Each
// row has a TopKBuffer, which takes its scores as soon as they are computed.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/simd/dispatch.h"
#include "cpu/topk/block_scorer.h"
#include "cpu/topk/borderline_rescorer.h"
#include "cpu/topk/edge_writer.h"
#include "cpu/topk/prefilter.h"
#include "cpu/topk/top_k_buffer.h"

namespace bse {

// Scratch of one thread, for proximity graphs and kNN searches.
class TopKBlock {
 public:
  // prefilter: for offer(); may be off
  TopKBlock(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base, const Selection& selection,
            const Edges& edges, const Prefilter& prefilter = {})
      : plan_(plan),
        range_min_(selection.range_min),
        num_selected_(selection.num_neighbors + selection.range_min),
        kernels_(kernel_table()),
        has_prefilter_(prefilter.is_on()),
        scorer_(plan, queries, base, selection, prefilter),
        rescorer_(plan, queries, base, selection, selection.sort || edges.scores != nullptr),
        writer_(selection, edges, plan.top_k_capacity),
        storage_(plan.row_block, plan.top_k_capacity) {
    buffers_.reserve(static_cast<size_t>(plan.row_block));
  }

  // Starts a block of rows and borrows the arrays until the next block. margin: margin of the Prefilter, or 0 for exact
  // scores; query_ids, query_norms: [num_rows]
  void begin(const int64_t* query_ids, const float* query_norms, int64_t num_rows, double margin = 0.0) {
    query_ids_ = query_ids;
    query_norms_ = query_norms;
    margin_ = margin;
    scorer_.begin(query_ids, query_norms, num_rows, has_prefilter_ && margin > 0.0);
    buffers_.clear();
    is_prepared_.clear();
    num_prepared_ = 0;
    for (int64_t i = 0; i < num_rows; ++i) buffers_.push_back(storage_.buffer(i, num_selected_, margin));
  }

  // Scores candidates, in tiebreak order, against all rows of the block. With a margin, a single call must offer all
  // candidates. Returns false if the worker should stop. candidate_ids, candidate_norms: [count]; excluded: [num_rows],
  // per row the index of a candidate that must not be a neighbor, or -1
  bool offer(const int64_t* candidate_ids, const float* candidate_norms, int64_t count, const int64_t* excluded,
             Worker& worker) {
    rescorer_.begin(candidate_ids, candidate_norms, margin_, count / 32);
    if (margin_ > 0.0) num_prefiltered_ += count * static_cast<int64_t>(buffers_.size());
    return scorer_.score(candidate_ids, candidate_norms, count, worker,
                         [&](int64_t i, float* scores, int64_t first, int64_t size) {
                           if (excluded[i] >= first && excluded[i] < first + size) {
                             scores[excluded[i] - first] = std::numeric_limits<float>::quiet_NaN();
                           }
                           buffers_[static_cast<size_t>(i)].add(kernels_, scores, size, static_cast<uint32_t>(first));
                         });
  }

  // Takes the approximate scores of all candidates for row i, computed by the caller. candidate_ids, norm_indices,
  // scores: [count]; norm_indices: places of their norms in base_norms; copied: as for BorderlineRescorer
  void offer_approximate(int64_t i, const int64_t* candidate_ids, const float* base_norms, const uint32_t* norm_indices,
                         int64_t count, const float* scores, const CopiedScores* copied) {
    rescorer_.begin(candidate_ids, base_norms, margin_, count / 8, norm_indices, copied);
    buffers_[static_cast<size_t>(i)].add(kernels_, scores, count, 0);
  }

  // Writes row i of the block as row `result_row` of the edges. Rows must be finished in order. Returns false if the
  // prefilter cannot decide which candidates are the best. With exact scores it always returns true. tiebreak_ids:
  // instance id of each tiebreak
  bool finish_row(int64_t i, const int64_t* tiebreak_ids, int64_t result_row) {
    TopKBuffer& buffer = buffers_[static_cast<size_t>(i)];
    if (margin_ == 0.0) {
      buffer.finish(kernels_, range_min_);
    } else {
      while (num_prepared_ < std::min(i + 2, static_cast<int64_t>(buffers_.size()))) prepare_next();
      if (!is_prepared_[static_cast<size_t>(i)]) return false;
      if (!rescorer_.resolve(buffer, query_ids_[i], query_norms_[i])) return false;
    }
    writer_.write(buffer, tiebreak_ids, result_row);
    return true;
  }

  // Returns whether the prefilter of offer() has saved time in the blocks so far. If too many candidates are too close
  // to call, exact scores of all are as fast (measured).
  bool prefilter_pays() const { return kMaxCloseInverse * rescorer_.num_close() <= num_prefiltered_; }

 private:
  static constexpr int64_t kMaxCloseInverse = 64;

  void prepare_next() {
    const auto i = static_cast<size_t>(num_prepared_++);
    is_prepared_.push_back(rescorer_.prepare(buffers_[i], query_ids_[i]));
  }

  const BlockPlan plan_;
  const int64_t range_min_, num_selected_;
  const KernelTable& kernels_;
  const int64_t* query_ids_ = nullptr;
  const float* query_norms_ = nullptr;
  const bool has_prefilter_;
  double margin_ = 0.0;
  BlockScorer scorer_;
  BorderlineRescorer rescorer_;
  EdgeWriter writer_;
  TopKStorage storage_;
  std::vector<TopKBuffer> buffers_;
  int64_t num_prepared_ = 0, num_prefiltered_ = 0;
  std::vector<char> is_prepared_;  // [num_prepared] whether the prefilter can still decide the row
};

}  // namespace bse

// Scores of a block of rows against any number of candidates, exact or approximate (prefilter.h).
//
// The work is cut into blocks of candidates, stripes of rows and blocks of the feature dimension (depth). So scratch is
// bounded for any number of rows, candidates and dimensions. The scores of a stripe are handed to a callback while they
// are in the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/edge_filters.h"
#include "cpu/topk/prefilter.h"
#include "cpu/types/matrix_view.h"

namespace bse {

class BlockScorer {
 public:
  // prefilter: matrices for approximate scores; may be off
  BlockScorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base, const Selection& selection,
              const Prefilter& prefilter);

  // Starts a block of rows and borrows the arrays until the next block. If is_approximate, scores are those of the
  // prefilter, which must be on. query_ids: [num_rows]; query_norms: [num_rows], row_norm() of each
  void begin(const int64_t* query_ids, const float* query_norms, int64_t num_rows, bool is_approximate);
  int64_t num_rows() const { return num_rows_; }

  // Calls visit(i, scores, first, size) for each candidate block in order and each row i of the block. scores: [size],
  // of candidates [first, first + size), NaN where labels or max_score forbid the edge. visit may overwrite them.
  // Returns false if the worker should stop. candidate_ids, candidate_norms: [count]
  template <class Visit>
  bool score(const int64_t* candidate_ids, const float* candidate_norms, int64_t count, Worker& worker,
             const Visit& visit) {
    const int64_t dim = is_approximate_ ? (base_.dim + 1) / 2 : base_.dim, max_rows = plan_.stripe_rows(dim);
    for (int64_t first = 0; first < count; first += plan_.candidate_block) {
      const int64_t size = std::min(plan_.candidate_block, count - first);
      for (int64_t first_row = 0; first_row < num_rows_; first_row += max_rows) {
        const int64_t num_rows = std::min(max_rows, num_rows_ - first_row);
        for (int64_t k = 0; k < dim; k += plan_.depth_block) {
          const int64_t depth = std::min(plan_.depth_block, dim - k);
          if (first_row == 0) pack(candidate_ids + first, size, k, depth);  // if there are more stripes, depth is uncut
          if (!accumulate(first_row, num_rows, size, k, depth, worker)) return false;
        }
        for (int64_t i = first_row; i < first_row + num_rows; ++i) {
          float* scores = scores_.data() + (i - first_row) * plan_.candidate_block;
          if (!(is_approximate_ && prefilter_.has_unit_rows)) {
            kernels_.finish_scores(selection_.metric, query_norms_[i], candidate_norms + first, size, scores);
          }
          forbid_edges(selection_, query_ids_[i], candidate_ids + first, size, scores);
          visit(i, scores, first, size);
        }
      }
    }
    return true;
  }

 private:
  const float* read(const MatrixView& features, int64_t row, int64_t first_k, int64_t depth, float* scratch) const {
    return is_approximate_ ? features.read_pairs(row, first_k, depth, scratch)
                           : features.read(row, first_k, depth, scratch);
  }
  void pack(const int64_t* candidate_ids, int64_t count, int64_t first_k, int64_t depth);
  bool accumulate(int64_t first_row, int64_t num_rows, int64_t count, int64_t first_k, int64_t depth, Worker& worker);

  const BlockPlan plan_;
  const MatrixView exact_queries_, exact_base_;
  const Prefilter prefilter_;
  const Selection selection_;
  const KernelTable& kernels_;

  const int64_t* query_ids_ = nullptr;
  const float* query_norms_ = nullptr;
  int64_t num_rows_ = 0;
  MatrixView queries_, base_;    // of the block
  bool is_approximate_ = false;  // if true, depths count pairs of elements
  decltype(KernelTable::accumulate) accumulate_ = nullptr;

  AlignedBuffer<float> panels_;          // [candidate_block / panel_width][depth_block][panel_width]
  AlignedBuffer<float> scores_;          // [stripe_rows][candidate_block]
  AlignedBuffer<float> converted_rows_;  // [row_block][depth_block], if queries are not read in place
  AlignedBuffer<float> converted_;       // [panel_width][depth_block], if candidates are not read in place
  std::vector<const float*> rows_;
};

}  // namespace bse

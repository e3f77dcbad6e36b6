// The second half of prefilter and rescore (prefilter.h): decides by better scores what the prefilter cannot.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/byte_copy.h"
#include "cpu/topk/top_k_buffer.h"
#include "cpu/types/matrix_view.h"
#include "cpu/types/requests.h"

namespace bse {

// Decides which candidates in a buffer of approximate scores are the best. Computes exact scores of those that are too
// close to call. Belongs to one thread.
class BorderlineRescorer {
 public:
  BorderlineRescorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                     const Selection& selection, bool wants_scores);

  // Borrows the arrays until the next call. candidate_ids, candidate_norms: indexed by tiebreak. If more than max_close
  // entries of a row are too close to call, scoring all its candidates exactly costs less, and resolve() returns false.
  // If norm_indices is not null, the norms are indexed by its entries instead. copied: refines the scores of a buffer
  // before exact scores decide, or null
  void begin(const int64_t* candidate_ids, const float* candidate_norms, double margin, int64_t max_close,
             const uint32_t* norm_indices = nullptr, const CopiedScores* copied = nullptr) {
    candidate_ids_ = candidate_ids;
    candidate_norms_ = candidate_norms;
    norm_indices_ = norm_indices;
    margin_ = margin;
    max_close_ = max_close;
    copied_ = copied;
  }

  // Must be called before resolve(). Cuts the buffer and prefetches what resolve() is going to read, so it should be
  // called one row ahead. Returns false if the prefilter cannot decide; the buffer is then invalid.
  bool prepare(TopKBuffer& buffer, int64_t query_id);

  // Reduces the buffer to the num_neighbors best after the range_min best, in tiebreak order, with exact scores if
  // wants_scores. Returns false if the prefilter cannot decide; the buffer is then invalid.
  bool resolve(TopKBuffer& buffer, int64_t query_id, float query_norm);

  // Returns the number of entries that were too close to call, of all rows so far.
  int64_t num_close() const { return num_close_; }

 private:
  static constexpr int64_t kMaxPrefetched = 16;
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  float norm_of(uint32_t tiebreak) const {
    return candidate_norms_[norm_indices_ != nullptr ? norm_indices_[tiebreak] : tiebreak];
  }
  void refine_all(TopKBuffer& buffer);
  int64_t find_close(const TopKBuffer& buffer, float cut);
  bool find_best(const TopKBuffer& buffer, int64_t num_best, float cut, float* limit);
  void find_best_of_close(const TopKBuffer& buffer, int64_t num_best);
  int64_t refine_close(const TopKBuffer& buffer, int64_t num_best);
  void rescore(const TopKBuffer& buffer);
  void rescore_all(TopKBuffer& buffer);

  const MatrixView queries_, base_;
  const Metric metric_;
  const int64_t range_min_, num_neighbors_;
  const bool wants_scores_;
  const int64_t max_depth_;
  const double features_margin_;  // of refine_close(); 0 if the features do not allow it
  const KernelTable& kernels_;
  const int64_t* candidate_ids_ = nullptr;
  const float* candidate_norms_ = nullptr;
  const uint32_t* norm_indices_ = nullptr;
  const CopiedScores* copied_ = nullptr;
  double margin_ = 0.0;
  int64_t max_close_ = 0;
  int64_t query_id_ = 0;
  float query_norm_ = 0.0f;

  std::vector<int64_t> close_;                 // positions of entries in the buffer, ascending
  std::vector<size_t> open_;                   // positions in close_ that are not decided, ascending
  std::vector<float> exact_scores_;            // [open_]
  std::vector<float> finer_scores_, ordered_;  // [close_]
  std::vector<int64_t> ids_;                   // of close_, or of a whole buffer
  std::vector<char> is_best_;
  std::vector<uint64_t> ranks_;
  std::vector<const float*> rows_;           // [panel_width]
  AlignedBuffer<float> query_, candidates_;  // [max_depth], [panel_width][max_depth], if features are not read in place
  AlignedBuffer<float> panel_, chains_;      // [max_depth][panel_width], [panel_width]
  AlignedBuffer<float> limits_;              // [top_k_capacity]
  AlignedBuffer<uint32_t> hits_;             // [top_k_capacity + 16]
  float high_ = 0.0f;
  int64_t num_close_ = 0;
};

}  // namespace bse

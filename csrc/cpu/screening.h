// Screening: dot products added in whatever order is fast find the few candidates among which the best by defined
// scores must be (csrc/common/screening.h).
#pragma once

#include <cstdint>

#include "kernels.h"
#include "matrix_view.h"
#include "selection.h"
#include "top_k_buffer.h"

namespace bse {

// Whether this instruction set has dot products that screen candidates in blocks, or gathered for one row.
bool can_screen_blocks(const MatrixView& queries, const MatrixView& base);
bool can_screen_gathered(const MatrixView& queries, const MatrixView& base);

// Twice the error of a screened score, or 0 if these rows must not be screened: the metric is not cosine, max_score
// asks for every score, or rows are so small or large that the bound does not hold. ids: [count] rows of both matrices,
// or null: the first count; terms: [count], row_term() of each
double screening_margin(const MatrixView& queries, const float* query_terms, const MatrixView& base,
                        const float* base_terms, const int64_t* ids, int64_t count, const Selection& selection);

// Settles, by defined scores, which candidates of a screened buffer are the best. One thread's.
class Borderline {
 public:
  Borderline(const MatrixView& queries, const MatrixView& base, Metric metric);

  // Candidates by tiebreak, as they were offered; borrowed until the next call.
  void begin(const int64_t* candidate_ids, const float* candidate_terms, double margin) {
    candidate_ids_ = candidate_ids;
    candidate_terms_ = candidate_terms;
    margin_ = margin;
  }

  // Keeps the best num_best by defined scores of what finish_screening() has left of num_best, in order. False if too
  // many are too close to call: then the buffer is as it was.
  bool keep_best(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best);

  // Drops them, for any num_best.
  bool drop_best(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best);

  // Puts defined scores in the place of screened ones.
  void rescore_all(TopKBuffer& buffer, int64_t query_id, float query_term);

 private:
  static constexpr int64_t kMostClose = 16;
  static constexpr int64_t kDepth = 256;

  bool split(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best, float cut, bool keep_best);
  void rescore(const TopKBuffer& buffer, int64_t query_id, float query_term);

  const MatrixView queries_, base_;
  const Metric metric_;
  const KernelTable& kernels_;
  const int64_t* candidate_ids_ = nullptr;
  const float* candidate_terms_ = nullptr;
  double margin_ = 0.0;

  int64_t num_close_ = 0;
  int64_t close_[kMostClose];  // places in the buffer, ascending
  float close_scores_[kMostClose];
  float query_[kDepth];
  float candidates_[kMostClose][kDepth];
};

}  // namespace bse

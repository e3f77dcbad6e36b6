// Prefilter and rescore. Approximate scores are fast and find the few candidates that can be in the exact top K. Exact
// scores decide between those that are too close to call. Only cosine has a prefilter: only its error has a bound.
//
// Let e bound the error of a score (csrc/common/prefilter_bound.h) and T be the K-th best approximate score. A
// candidate above T + 2e is certainly in the exact top K. One below T - 2e certainly is not. The margin is 2e.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/normalized_copy.h"
#include "cpu/topk/top_k_buffer.h"
#include "cpu/types/matrix_view.h"
#include "cpu/types/requests.h"

namespace bse {

// Matrices whose dot products prefilter: the features themselves, or normalized copies of them.
struct Prefilter {
  MatrixView queries, base;
  bool has_unit_rows = false;  // dot products are cosines
  double margin = 0.0;         // twice the bound on the error of a score; 0: there is no prefilter

  bool is_on() const { return margin > 0.0; }
};

// Return whether the features themselves can prefilter with this instruction set. The first is for blocks of rows that
// share their candidates, and needs bfloat16 features. The second is for single rows, whose candidates are gathered.
bool can_prefilter_blocks(const MatrixView& queries, const MatrixView& base);
bool can_prefilter_gathered(const MatrixView& queries, const MatrixView& base);

// Returns whether a prefilter can be used: the metric is cosine, there is no max_score (it needs every exact score),
// and the bounds of csrc/common/prefilter_bound.h hold. These fail for very small or very large rows and beyond
// kMaxPrefilterDim. ids: [count] rows of both matrices, or null for the first count; norms: [count], row_norm() of each
bool prefilter_is_bounded(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                          const float* base_norms, const int64_t* ids, int64_t count, const Selection& selection);

// Returns a prefilter by the features themselves. Requires prefilter_is_bounded().
Prefilter prefilter_by_features(const MatrixView& queries, const MatrixView& base);

// Prefilter by normalized copies of both matrices. Requires prefilter_is_bounded() and takes the same arguments. Owns
// the matrices that prefilter() views.
class NormalizedPrefilter {
 public:
  NormalizedPrefilter(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                      const float* base_norms, const int64_t* ids, int64_t count, ThreadTeam& team);

  // Returns the bytes of the copies, or 0 if they should not be made. They should not if the instruction set has no dot
  // products of bfloat16, if dim < 32, or if count is less than half the rows. They may take at most 1 GiB and at most
  // half the budget. is_same: base and queries are the same data
  static int64_t bytes(const MatrixView& queries, const MatrixView& base, bool is_same, int64_t count,
                       int64_t budget_bytes);

  Prefilter prefilter() const;

 private:
  NormalizedCopy queries_;
  std::optional<NormalizedCopy> base_;  // empty if base and queries are the same data
};

// Better approximate scores of a few candidates of the current row.
class FinerScores {
 public:
  virtual ~FinerScores() = default;
  virtual double margin() const = 0;

  // Turns approximate scores into better ones, in place. ids, scores: [count]
  virtual void refine(const int64_t* ids, int64_t count, float* scores) = 0;
};

// Decides which candidates in a buffer of approximate scores are the best. Computes exact scores of those that are too
// close to call. Belongs to one thread.
class BorderlineRescorer {
 public:
  BorderlineRescorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                     const Selection& selection, bool wants_scores);

  // Borrows the arrays until the next call. candidate_ids, candidate_norms: indexed by tiebreak. If more than max_close
  // entries of a row are too close to call, scoring all its candidates exactly costs less, and resolve() returns false.
  // If norm_indices is not null, the norms are indexed by its entries instead. finer: scores to refine a buffer with
  // before exact scores decide, or null
  void begin(const int64_t* candidate_ids, const float* candidate_norms, double margin, int64_t max_close,
             const uint32_t* norm_indices = nullptr, FinerScores* finer = nullptr) {
    candidate_ids_ = candidate_ids;
    candidate_norms_ = candidate_norms;
    norm_indices_ = norm_indices;
    margin_ = margin;
    max_close_ = max_close;
    finer_ = finer;
  }

  // Reduces the buffer to the num_neighbors best after the range_min best, in tiebreak order, with exact scores if
  // wants_scores. Returns false if the prefilter cannot decide; the buffer is then invalid.
  bool resolve(TopKBuffer& buffer, int64_t query_id, float query_norm);

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  void refine(TopKBuffer& buffer);
  bool find_best(const TopKBuffer& buffer, int64_t num_best, float cut, float* limit);
  void rescore(const TopKBuffer& buffer);
  void rescore_all(TopKBuffer& buffer);

  const MatrixView queries_, base_;
  const Metric metric_;
  const int64_t range_min_, num_neighbors_;
  const bool wants_scores_;
  const int64_t max_depth_;
  const KernelTable& kernels_;
  const int64_t* candidate_ids_ = nullptr;
  const float* candidate_norms_ = nullptr;
  const uint32_t* norm_indices_ = nullptr;
  FinerScores* finer_ = nullptr;
  double margin_ = 0.0;
  int64_t max_close_ = 0;
  int64_t query_id_ = 0;
  float query_norm_ = 0.0f;

  std::vector<int64_t> close_;  // positions of entries in the buffer, ascending
  std::vector<float> close_scores_;
  std::vector<int64_t> refined_ids_;
  std::vector<float> refined_scores_;
  std::vector<char> is_best_;
  std::vector<uint64_t> ranks_;
  std::vector<const float*> rows_;           // [panel_width]
  AlignedBuffer<float> query_, candidates_;  // [max_depth], [panel_width][max_depth], if features are not read in place
  AlignedBuffer<float> panel_, chains_;      // [max_depth][panel_width], [panel_width]
};

}  // namespace bse

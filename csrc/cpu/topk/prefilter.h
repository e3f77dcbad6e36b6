// Prefiltering: dot products added in whatever order is fast find the few candidates among which the best by defined
// scores must be (csrc/common/prefilter_bound.h).
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

// What is multiplied to prefilter: the features themselves, or unit rows near them.
struct Prefilter {
  MatrixView queries, base;
  bool has_unit_rows = false;  // their dot products are cosines
  double margin = 0.0;         // twice the error of a approximate score; 0: there is no prefiltering

  bool is_on() const { return margin > 0.0; }
};

// Whether this instruction set has dot products that prefilter candidates in blocks, or gathered for one row.
bool can_prefilter_blocks(const MatrixView& queries, const MatrixView& base);
bool can_prefilter_gathered(const MatrixView& queries, const MatrixView& base);

// Whether the bounds of csrc/common/prefilter_bound.h hold: not for other metrics than cosine, for max_score, which
// asks for every score, or for very small or large rows. ids: [count] rows of both matrices, or null: the first count;
// norms: [count], row_norm() of each
bool prefilter_is_bounded(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                          const float* base_norms, const int64_t* ids, int64_t count, const Selection& selection);

// Prefilters by the features themselves, where prefilter_is_bounded().
Prefilter prefilter_by_features(const MatrixView& queries, const MatrixView& base);

// Prefilters by normalized_copies of both, where prefilter_is_bounded(). Arguments as there; owns what its prefilter()
// is a view of.
class NormalizedPrefilter {
 public:
  NormalizedPrefilter(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                      const float* base_norms, const int64_t* ids, int64_t count, ThreadTeam& team);

  // What they take, or 0 if there should be none for that many rows: no fast products, too much memory, or too narrow.
  static int64_t bytes(const MatrixView& queries, const MatrixView& base, bool is_same, int64_t count,
                       int64_t budget_bytes);

  Prefilter prefilter() const;

 private:
  NormalizedCopy queries_;
  std::optional<NormalizedCopy> base_;  // if it is other data
};

// Settles, by defined scores, which candidates of a approximate buffer are the best. One thread's.
class BorderlineRescorer {
 public:
  BorderlineRescorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                     const Selection& selection, bool wants_scores);

  // Candidates by tiebreak, as they were offered; borrowed until the next call. max_close: beyond which scoring the
  // row anew costs less
  void begin(const int64_t* candidate_ids, const float* candidate_norms, double margin, int64_t max_close) {
    candidate_ids_ = candidate_ids;
    candidate_norms_ = candidate_norms;
    margin_ = margin;
    max_close_ = max_close;
  }

  // Leaves the num_neighbors best that follow the range_min best, in order, with defined scores if these are wanted.
  // False if prefiltering cannot tell; the buffer is of no use then.
  bool resolve(TopKBuffer& buffer, int64_t query_id, float query_norm);

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

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
  double margin_ = 0.0;
  int64_t max_close_ = 0;
  int64_t query_id_ = 0;
  float query_norm_ = 0.0f;

  std::vector<int64_t> close_;  // places in the buffer, ascending
  std::vector<float> close_scores_;
  std::vector<char> is_best_;
  std::vector<uint64_t> ranks_;
  std::vector<const float*> rows_;           // [panel_width]
  AlignedBuffer<float> query_, candidates_;  // [max_depth], [panel_width][max_depth]: for features not read in place
  AlignedBuffer<float> panel_, chains_;      // [max_depth][panel_width], [panel_width]
};

}  // namespace bse

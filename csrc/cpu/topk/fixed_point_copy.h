// Fixed-point copy of features: rows scaled to the same length and rounded to int16.
//
// Integer instructions multiply pairs of int16 at up to twice the rate of float32, and their sums are exact. So the dot
// products of two copies prefilter the cosines of features of any type with a small error (prefilter_bound.h). A copy
// takes half the memory of float32 features.
#pragma once

#include <cstdint>
#include <optional>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/prefilter.h"
#include "cpu/types/matrix_view.h"

namespace bse {

class FixedPointCopy {
 public:
  // Copies rows of the features; the others stay uninitialized. ids: [count] rows to copy, or null for the first count;
  // norms: [count], row_norm() of each for cosine
  FixedPointCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team);

  static int64_t bytes(const MatrixView& features) { return 2 * features.num_rows * stride(features.dim); }

  MatrixView view() const;

  // Length of a copied row.
  double scale() const { return scale_; }
  // Upper bound on the distance between a copied row, scaled to length 1, and the normalized row.
  double residual() const { return residual_; }

 private:
  // Row stride in elements: whole cache lines, padded with 0.
  static int64_t stride(int64_t dim) { return (dim + 31) / 32 * 32; }

  const int64_t num_rows_, dim_, stride_;
  double scale_ = 1.0, residual_ = 0.0;
  AlignedBuffer<int16_t> elements_;
};

// Prefilter of blocks of rows that share their candidates, by copies of both matrices. Owns the copies. Requires
// prefilter_is_bounded() of both, and takes its arguments.
class FixedPointPrefilter {
 public:
  FixedPointPrefilter(const MatrixView& queries, const float* query_norms, const int64_t* query_ids,
                      int64_t num_queries, const MatrixView& base, const float* base_norms, const int64_t* base_ids,
                      int64_t num_base, ThreadTeam& team);
  // For queries that are among the rows of the base.
  FixedPointPrefilter(const MatrixView& base, const float* norms, const int64_t* ids, int64_t num_rows,
                      ThreadTeam& team)
      : base_(base, ids, norms, num_rows, team) {}

  // Returns the bytes of the copies, or 0 if they should not be made. They should not if the selection allows no
  // prefilter, if the instruction set multiplies no int16, if dim < 32, if fewer than half the rows of a matrix are
  // used, if a row selects more than a quarter of its candidates, or if there are too few scores per copied row. They
  // may take at most 1 GiB and at most half the budget. num_candidates: of a query; has_one_copy: the queries are among
  // the rows of the base
  static int64_t bytes(const MatrixView& queries, int64_t num_queries, const MatrixView& base, int64_t num_base,
                       bool has_one_copy, int64_t num_candidates, double num_scores, const Selection& selection,
                       int64_t budget_bytes);

  Prefilter prefilter() const;

 private:
  FixedPointCopy base_;
  std::optional<FixedPointCopy> queries_;  // empty if they are among the rows of the base
};

}  // namespace bse

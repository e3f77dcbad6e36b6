// Normalized copy of features in fixed point, as two planes of bytes. Cosines by the high plane prefilter candidates.
// Both planes together decide most of those that are too close to call (prefilter.h).
//
// A row y of unit length is approximated by y' = step * high, or by y'' = step * (high + low / 254), with integers high
// and low in [-127, 127]. The step is the same for all rows: the largest |y_k| / 127. The query is a row of 16-bit
// integers with a step of its own. So dot products are sums of integers, which are exact, and a cosine is such a sum
// times a constant. csrc/common/prefilter_bound.h bounds its error by the residuals |y - y'| and |y - y''|.
//
// A plane takes a quarter of the memory of float32 features. This matters because gathering rows limits the speed.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/types/matrix_view.h"
#include "cpu/types/requests.h"

namespace bse {

class ByteCopy {
 public:
  // One byte of each element, plus 128, in the order of KernelTable::gather_byte_dots. Rows are padded with zeros.
  struct Plane {
    const uint8_t* bytes;
    float step;       // value of a 1
    double residual;  // upper bound on the distance of a normalized row to the sum of this plane and the higher ones
  };

  // Copies rows of the features; the others stay uninitialized. ids: [count] rows to copy, or null for the first count;
  // norms: [count], row_norm() of each for cosine
  ByteCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team);

  // Returns the bytes of a copy of count rows, or 0 if it should not be made. It should not if the selection allows no
  // prefilter, if the instruction set has no dot products of bytes, if dim < 32, if count is less than half the rows,
  // or if there are few scores to compute. If the features fit in the caches, a copy needs more scores to pay off. It
  // may take at most 1 GiB and at most half the budget.
  static int64_t wanted_bytes(const MatrixView& features, int64_t count, double num_scores, const Selection& selection,
                              int64_t budget_bytes);
  static int64_t bytes(const MatrixView& features) { return 2 * features.num_rows * row_bytes(features.dim); }
  static int64_t row_bytes(int64_t dim) { return (dim + 63) / 64 * 64; }

  int64_t dim() const { return dim_; }
  Plane high() const { return {bytes_.data(), step_, high_residual_}; }
  Plane low() const { return {bytes_.data() + num_rows_ * row_bytes(dim_), step_ / 254.0f, low_residual_}; }

 private:
  struct Residuals {
    float high = 0.0f, low = 0.0f;  // squared, the largest of all rows
  };

  Residuals copy_row(const float* row, float norm, uint8_t* high, uint8_t* low) const;

  const int64_t num_rows_, dim_;
  float step_ = 1.0f;
  double high_residual_ = 0.0, low_residual_ = 0.0;
  AlignedBuffer<uint8_t> bytes_;  // [2][num_rows][row_bytes]
};

// Approximate cosines of one query at a time with rows of a copy. Belongs to one thread.
class CopiedScores {
 public:
  // queries: matrix of the queries; copy: borrowed
  CopiedScores(const MatrixView& queries, const ByteCopy& copy);

  static int64_t bytes(int64_t dim) { return 4 * dim + 6 * ByteCopy::row_bytes(dim); }

  // Sets the query. norm: row_norm() of it for cosine
  void set_query(int64_t id, float norm);

  // Margins (prefilter.h) of scores by the high plane, and of refined ones.
  double high_margin() const { return margin(copy_.high()); }
  double refined_margin() const { return margin(copy_.low()); }

  // Writes scores by the high plane. ids, scores: [count]
  void score(const int64_t* ids, int64_t count, float* scores) const { dots(copy_.high(), ids, count, scores); }

  // Adds the part of the low plane to scores by the high plane.
  void refine(const int64_t* ids, int64_t count, float* scores) const;

 private:
  double margin(const ByteCopy::Plane& plane) const;
  void dots(const ByteCopy::Plane& plane, const int64_t* ids, int64_t count, float* out) const;

  const MatrixView queries_;
  const ByteCopy& copy_;
  const KernelTable& kernels_;
  float step_ = 0.0f;
  int32_t offset_ = 0;                       // what the 128 in each byte adds to a dot product, modulo 2^32
  double residual_ = 0.0;                    // upper bound on the distance between the normalized query and its words
  AlignedBuffer<float> scratch_, elements_;  // [dim] if queries are not read in place; [row_bytes], 0 beyond dim
  AlignedBuffer<int16_t> words_;             // [row_bytes]
};

}  // namespace bse

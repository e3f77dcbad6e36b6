// Normalized bf16 copy of features: rows scaled to unit length and rounded to bfloat16.
//
// If the instruction set multiplies bfloat16 pairs, dot products of such copies prefilter the cosines of features of
// any type (prefilter.h). A copy takes half the memory of float32 features.
#pragma once

#include <cstdint>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/matrix_view.h"

namespace bse {

class NormalizedCopy {
 public:
  // Copies rows of the features; the others stay uninitialized. ids: [count] rows to copy, or null for the first count;
  // norms: [count], row_norm() of each for cosine
  NormalizedCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team);

  static int64_t bytes(const MatrixView& features) { return 2 * features.num_rows * stride(features.dim); }

  MatrixView view() const;

  // Upper bound on the distance between a copied row and the normalized row.
  double residual() const { return residual_; }

 private:
  // Row stride in elements: whole cache lines, padded with 0.
  static int64_t stride(int64_t dim) { return (dim + 31) / 32 * 32; }

  const int64_t num_rows_, dim_, stride_;
  double residual_ = 0.0;
  AlignedBuffer<uint16_t> elements_;
};

}  // namespace bse

// Rows scaled to unit length and rounded to bfloat16: their dot products, where an instruction set has fast ones,
// prefilter the cosines of features of any type, in half the memory of float32 (prefilter.h).
#pragma once

#include <cstdint>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/matrix_view.h"

namespace bse {

class NormalizedCopy {
 public:
  // Of rows `ids` of the features (null: the first count); the others are left unset. norms: [count], 1 / norm of each
  NormalizedCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team);

  static int64_t bytes(const MatrixView& features) { return 2 * features.num_rows * stride(features.dim); }

  MatrixView view() const;

  // No row here is further than this from the row that it stands for.
  double residual() const { return residual_; }

 private:
  // Whole cache lines, or what is left of the last one 0.
  static int64_t stride(int64_t dim) { return (dim + 31) / 32 * 32; }

  const int64_t num_rows_, dim_, stride_;
  double residual_ = 0.0;
  AlignedBuffer<uint16_t> elements_;
};

}  // namespace bse

// Prefilter and rescore. Approximate scores are fast and find the few candidates that can be in the exact top K. Exact
// scores decide between those that are too close to call. Only cosine has a prefilter: only its error has a bound.
//
// Let the error of every score be below e (csrc/common/prefilter_bound.h) and T be the K-th best approximate score. A
// candidate above T + 2e is certainly in the exact top K. One at T - 2e or below certainly is not. The margin is 2e.
// borderline_rescorer.h decides between the others.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cpu/types/matrix_view.h"

namespace bse {

// Matrices whose dot products prefilter: the features themselves, or copies of them (fixed_point_copy.h).
struct Prefilter {
  MatrixView queries, base;
  bool has_unit_rows = false;  // dot products are cosines times a constant
  double margin = 0.0;         // twice the bound on the error of a score; 0: there is no prefilter

  bool is_on() const { return margin > 0.0; }
};

// Return whether the features themselves can prefilter with this instruction set. The first is for blocks of rows that
// share their candidates, and needs bfloat16 features. The second is for single rows, whose candidates are gathered.
bool can_prefilter_blocks(const MatrixView& queries, const MatrixView& base);
bool can_prefilter_gathered(const MatrixView& queries, const MatrixView& base);

// Returns whether there can be a prefilter: the metric is cosine, there is no max_score (it needs every exact score),
// and dim is at most kMaxPrefilterDim.
bool can_have_prefilter(int64_t dim, const Selection& selection);

// Returns whether copies can prefilter: there can be a prefilter, and dim is large enough for copies to pay.
bool can_have_copies(int64_t dim, const Selection& selection);

// Returns the bytes, or 0 if copies must not take so many: more than 1 GiB or half the budget.
int64_t allowed_copy_bytes(int64_t bytes, int64_t budget_bytes);

// Returns whether the rows of a matrix allow a prefilter: there can be one, and the bounds of
// csrc/common/prefilter_bound.h hold. These fail for very small or very large rows. norms: [count], row_norm() of each
bool prefilter_is_bounded(const float* norms, int64_t count, int64_t dim, const Selection& selection);

// Returns a prefilter by the features themselves. Requires prefilter_is_bounded() of both.
Prefilter prefilter_by_features(const MatrixView& queries, const MatrixView& base);

}  // namespace bse

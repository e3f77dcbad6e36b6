// What a metric needs of each row beside its elements, for many rows.
#pragma once

#include <cstdint>

#include "common/score.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/matrix_view.h"

namespace bse {

// row_norm() of each of `ids` (null: all rows 0..count-1) under the metric: out[i] belongs to ids[i].
// Also the one place where non-finite features are found: throws std::invalid_argument "NAME[row, column]: expected
// finite values, got nan".
void compute_row_norms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out);

}  // namespace bse

// Norms of many rows, which only cosine needs (Metric in csrc/common/score.h).
#pragma once

#include <cstdint>

#include "common/score.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/matrix_view.h"

namespace bse {

// Writes row_norm() of row ids[i] to out[i]. ids: [count], or null for rows 0..count-1; out: [count].
// This is the only place that detects features that cannot be scored. It throws std::invalid_argument, "NAME[row,
// column]: expected finite values, got nan" or, for cosine, "NAME[row]: " kNormExpected ", got 1e-20".
void compute_row_norms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out);

}  // namespace bse

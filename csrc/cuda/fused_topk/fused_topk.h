// Top-k of rows that share their candidates, scored and selected in one launch, if shared memory has room for it. Only
// for cosines of bfloat16 features (can_prefilter() in matrix_topk.h).
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Returns the rows of a thread block (64, 32 or 16, at most max_rows) whose shape fits this device, or 0 if none does.
// The features must satisfy can_prefilter() (matrix_topk.h).
int fused_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows);

// Writes the edges of the rows of `block`. fused_rows: nonzero result of fused_rows().
void launch_fused_topk(const ScoreBlock& block, int fused_rows, const Edges& edges, device::Stream stream);

}  // namespace bse::cuda

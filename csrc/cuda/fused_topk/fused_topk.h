// Scores and selection of rows that share their candidates in one launch, where shared memory has room for it.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Rows of a band for such rows: a shape that fits this device, or 0. Features must be ones that prefilter
// (matrix_topk.h).
int fused_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows);

// Writes the edges of the block's rows. fused_rows: as above, not 0; last_guess: one word for blocks to begin their
// searches with, 0 before the first launch
void launch_fused_topk(const ScoreBlock& block, int fused_rows, const Edges& edges, uint32_t* last_guess,
                       device::Stream stream);

}  // namespace bse::cuda

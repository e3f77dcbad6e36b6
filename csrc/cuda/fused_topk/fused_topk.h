// Scores and selection of rows that share their candidates in one launch, where shared memory has room for it.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Rows of a band for such rows: a shape that fits this device, or 0. Features must be ones that screen
// (matrix_topk.h).
int band_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows);

// Writes the links of the block's rows. band_rows: as above, not 0; last_guess: one word for blocks to begin their
// searches with, 0 before the first launch
void launch_bands(const ScoreBlock& block, int band_rows, const Links& links, uint32_t* last_guess,
                  device::Stream stream);

}  // namespace bse::cuda

// Block sizes of similarity computations. They bound the scratch for any N, M and D.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/types/requests.h"

namespace bse {

// Sizes of a block, and the scratch of one thread that follows from them.
struct BlockPlan {
  static constexpr int64_t kMaxRows = 512;

  int64_t row_block = kMaxRows, candidate_block = 1024, depth_block = 256;
  int64_t top_k_capacity = 0;
  int num_threads = 1;

  // Shrinks the default blocks (rows down to 32), then the number of threads, then the rows further, until all
  // workspaces fit into `budget_bytes`. `extra_bytes` is the scratch of a thread beside its workspace. If even the
  // smallest plan does not fit, throws std::length_error, which names max_memory and the bytes needed. `fixed_bytes` is
  // only added to that number.
  static BlockPlan fit(const Selection& selection, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                       int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes);

  int64_t workspace_bytes(int64_t dim) const;

  // Number of rows whose scores are held at a time. If the depth is not cut, they are few enough for their scores to
  // stay in L2. Otherwise it is the whole row block, because each stripe would have to pack the panels again.
  int64_t stripe_rows(int64_t dim) const { return dim <= depth_block ? std::min<int64_t>(64, row_block) : row_block; }
};

}  // namespace bse

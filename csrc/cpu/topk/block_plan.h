// How similarity work is cut into blocks, so that scratch is bounded whatever N, M and D are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/types/requests.h"

namespace bse {

// Sizes of a block and what one thread's workspace takes.
struct BlockPlan {
  static constexpr int64_t kMaxRows = 512;

  int64_t row_block = kMaxRows, candidate_block = 1024, depth_block = 256;
  int64_t top_k_capacity = 0;
  int num_threads = 1;

  // Shrinks the default blocks until the workspaces of all threads fit into `budget_bytes` (fewer threads last).
  // `extra_bytes` is what a worker needs beside its workspace. Throws std::length_error, naming max_memory and what it
  // would take, if the smallest does not fit. `fixed_bytes` only serves that message.
  static BlockPlan fit(const Selection& selection, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                       int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes);

  int64_t workspace_bytes(int64_t dim) const;

  // Rows whose scores are held at a time: few enough to stay in L2, if the panels need not be packed again for them.
  int64_t stripe_rows(int64_t dim) const { return dim <= depth_block ? std::min<int64_t>(64, row_block) : row_block; }
};

}  // namespace bse

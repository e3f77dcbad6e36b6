// Block sizes of similarity computations. They keep the scratch within a budget for any number of rows, candidates and
// dimensions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "cpu/types/requests.h"

namespace bse {

// Sizes of a block, and the scratch of one thread that follows from them.
struct BlockPlan {
  static constexpr int64_t kMaxRows = 512;

  int64_t row_block = kMaxRows, candidate_block = 1024, depth_block = 256;
  int64_t top_k_capacity = 0;
  int num_threads = 1;

  // Returns a plan whose scratch fits into budget_bytes. To
  // fit, it shrinks the default blocks (rows down to 32), then the number of threads, then the rows further. If even
  // the smallest plan does not fit, it throws std::length_error, which names max_memory and the bytes needed.
  // num_kept: entries that a row keeps when its buffer is cut; extra_bytes: scratch of a thread beside its workspace;
  // fixed_bytes: only added to the bytes in this message
  static BlockPlan fit(int64_t num_kept, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                       int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes);

  // Returns the scratch of one thread: panels, scores, converted rows and top-k buffers.
  int64_t workspace_bytes(int64_t dim) const;

  // Returns the rows of a stripe: rows whose scores are held at a time. If one depth block covers the dimension, they
  // are few enough for their scores to stay in L2. Otherwise a stripe is the whole row block, because each stripe would
  // have to pack the panels again.
  int64_t stripe_rows(int64_t dim) const { return dim <= depth_block ? std::min<int64_t>(64, row_block) : row_block; }
};

// Returns fit(*copy_bytes), the plan beside copies of the features. If they leave too little memory for a plan with
// more than half the threads, returns fit(0), and *copy_bytes becomes 0.
template <class Fit>
BlockPlan fit_beside_copies(const Fit& fit, int64_t* copy_bytes) {
  if (*copy_bytes > 0) {
    try {
      const BlockPlan plan = fit(*copy_bytes);
      if (2 * plan.num_threads > fit(0).num_threads) return plan;
    } catch (const std::length_error&) {
    }
    *copy_bytes = 0;
  }
  return fit(0);
}

}  // namespace bse

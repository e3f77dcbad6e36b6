#include "cpu/topk/block_plan.h"

#include <stdexcept>
#include <string>

#include "cpu/simd/dispatch.h"
#include "cpu/topk/top_k_buffer.h"

namespace bse {

namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

int64_t BlockPlan::workspace_bytes(int64_t dim) const {
  // Beside its buffer, a row that is finished needs entries of 80 bytes (borderline_rescorer.h, edge_writer.h).
  constexpr int64_t kFinishedEntryBytes = 80;
  const int64_t depth = std::min(depth_block, dim);
  return 4 * (candidate_block * depth + stripe_rows(dim) * candidate_block + (row_block + 3 * 64) * depth) +
         top_k_capacity * (8 * row_block + kFinishedEntryBytes) + (64 + sizeof(TopKBuffer)) * row_block + 4096;
}

BlockPlan BlockPlan::fit(int64_t num_kept, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                         int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes) {
  const int panel_width = kernel_table().panel_width;
  const int64_t min_candidates = round_up(64, panel_width);
  BlockPlan plan;
  plan.num_threads = num_threads;
  plan.row_block = std::max<int64_t>(1, std::min(plan.row_block, max_rows_per_block));
  plan.candidate_block = round_up(std::min(plan.candidate_block, std::max<int64_t>(1, num_candidates)), panel_width);
  plan.depth_block = std::max<int64_t>(1, std::min(plan.depth_block, dim));
  plan.top_k_capacity = TopKBuffer::capacity(num_kept, num_candidates, panel_width);
  // The sizes that cost least speed shrink first.
  const auto needed = [&] { return plan.num_threads * (plan.workspace_bytes(dim) + extra_bytes); };
  while (needed() > budget_bytes) {
    if (plan.row_block > 32) {
      plan.row_block /= 2;
    } else if (plan.candidate_block > min_candidates) {
      plan.candidate_block = std::max(min_candidates, round_up(plan.candidate_block / 2, panel_width));
    } else if (plan.depth_block > 32) {
      plan.depth_block /= 2;
    } else if (plan.num_threads > 1) {
      --plan.num_threads;
    } else if (plan.row_block > 1) {
      plan.row_block /= 2;
    } else {
      throw std::length_error("max_memory: expected at least " + std::to_string(fixed_bytes + needed()) +
                              " bytes of scratch for this call, got " + std::to_string(fixed_bytes + budget_bytes));
    }
  }
  return plan;
}

}  // namespace bse

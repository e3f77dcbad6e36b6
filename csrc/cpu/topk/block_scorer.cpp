#include "cpu/topk/block_scorer.h"

#include "cpu/simd/dispatch.h"

namespace bse {

BlockScorer::BlockScorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                         const Selection& selection, const Prefilter& prefilter)
    : plan_(plan),
      exact_queries_(queries),
      exact_base_(base),
      prefilter_(prefilter),
      selection_(selection),
      kernels_(kernel_table()) {
  panels_ = AlignedBuffer<float>(plan.candidate_block * plan.depth_block);
  scores_ = AlignedBuffer<float>(plan.stripe_rows(queries.dim) * plan.candidate_block);
  if (!queries.reads_in_place()) converted_rows_ = AlignedBuffer<float>(plan.row_block * plan.depth_block);
  if (!base.reads_in_place()) converted_ = AlignedBuffer<float>(kernels_.panel_width * plan.depth_block);
  rows_.resize(static_cast<size_t>(std::max<int64_t>(plan.row_block, kernels_.panel_width)));
}

void BlockScorer::begin(const int64_t* query_ids, const float* query_norms, int64_t num_rows, bool is_approximate) {
  is_approximate_ = is_approximate;
  queries_ = is_approximate ? prefilter_.queries : exact_queries_;
  base_ = is_approximate ? prefilter_.base : exact_base_;
  accumulate_ = selection_.metric == Metric::kL2 ? kernels_.accumulate_l2 : kernels_.accumulate;
  if (is_approximate) {
    accumulate_ = queries_.is_fixed_point ? kernels_.accumulate_int16 : kernels_.accumulate_pairs;
  }
  query_ids_ = query_ids;
  query_norms_ = query_norms;
  num_rows_ = num_rows;
}

// Packs elements [first_k, first_k + depth) of the candidates into panels.
void BlockScorer::pack(const int64_t* candidate_ids, int64_t count, int64_t first_k, int64_t depth) {
  const int width = kernels_.panel_width, per_element = is_approximate_ ? 2 : 1;
  for (int64_t first = 0; first < count; first += width) {
    const int columns = static_cast<int>(std::min<int64_t>(width, count - first));
    const int64_t next_end = std::min<int64_t>(first + 2 * width, count);
    for (int64_t c = first + width; c < next_end; ++c)
      base_.prefetch(candidate_ids[c], first_k * per_element, depth * per_element);
    for (int c = 0; c < columns; ++c) {
      rows_[c] = read(base_, candidate_ids[first + c], first_k, depth, converted_.data() + c * depth);
    }
    kernels_.pack_panel(rows_.data(), columns, depth, panels_.data() + first * depth);
  }
}

// Continues the chains of a stripe of rows with the elements that are in the panels.
bool BlockScorer::accumulate(int64_t first_row, int64_t num_rows, int64_t count, int64_t first_k, int64_t depth,
                             Worker& worker) {
  constexpr int kPanelsBetweenPolls = 8;
  const int width = kernels_.panel_width;
  const int num_panels = static_cast<int>((count + width - 1) / width);
  for (int64_t i = 0; i < num_rows; ++i) {
    rows_[i] = read(queries_, query_ids_[first_row + i], first_k, depth, converted_rows_.data() + i * depth);
  }
  for (int p = 0; p < num_panels; p += kPanelsBetweenPolls) {
    if (worker.should_stop()) return false;
    accumulate_(rows_.data(), static_cast<int>(num_rows), panels_.data() + p * depth * width,
                std::min(kPanelsBetweenPolls, num_panels - p), depth, first_k > 0, scores_.data() + p * width,
                plan_.candidate_block);
  }
  return true;
}

}  // namespace bse

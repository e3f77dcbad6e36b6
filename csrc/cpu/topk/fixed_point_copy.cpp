#include "cpu/topk/fixed_point_copy.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/prefilter_bound.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/dispatch.h"
#include "cpu/topk/each_row.h"

namespace bse {

FixedPointCopy::FixedPointCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count,
                               ThreadTeam& team)
    : num_rows_(features.num_rows),
      dim_(features.dim),
      stride_(stride(features.dim)),
      elements_(features.num_rows * stride_) {
  prefer_huge_pages(elements_.data(), bytes(features));
  const KernelTable& kernels = kernel_table();
  struct Range {
    float largest = 0.0f, largest_square = 0.0f, residual_square = 0.0f;
  };
  std::vector<Range> ranges(static_cast<size_t>(team.num_threads()));
  for_each_row(team, features, ids, count, [&](int64_t i, int64_t, const float* row, size_t thread) {
    kernels.find_range(row, dim_, norms[i], &ranges[thread].largest, &ranges[thread].largest_square);
  });
  Range all;
  for (const Range& range : ranges) {
    all.largest = std::max(all.largest, range.largest);
    all.largest_square = std::max(all.largest_square, range.largest_square);
  }
  if (all.largest == 0.0f) all.largest = all.largest_square = 1.0f;  // rows of zeros
  const float scale =
      std::min(kMaxFixedPointElement / all.largest, kMaxFixedPointLength / std::sqrt(all.largest_square));
  for_each_row(team, features, ids, count, [&](int64_t i, int64_t id, const float* row, size_t thread) {
    int16_t* copied = elements_.data() + id * stride_;
    float& residual_square = ranges[thread].residual_square;
    residual_square = std::max(residual_square, kernels.round_to_int16(row, dim_, norms[i], scale, copied));
    std::fill(copied + dim_, copied + stride_, int16_t{0});
  });
  for (const Range& range : ranges) all.residual_square = std::max(all.residual_square, range.residual_square);
  // The factor covers the rounding of these sums, and 2^-22 that of the scaled elements.
  scale_ = scale;
  residual_ = 1.001 * std::sqrt(static_cast<double>(all.residual_square)) / scale_ + 0x1p-22;
}

MatrixView FixedPointCopy::view() const {
  MatrixView view;
  view.data = elements_.data();
  view.is_fixed_point = true;
  view.num_rows = num_rows_;
  view.dim = (dim_ + 1) / 2 * 2;  // whole pairs
  view.row_stride_elements = stride_;
  return view;
}

FixedPointPrefilter::FixedPointPrefilter(const MatrixView& queries, const float* query_norms, const int64_t* query_ids,
                                         int64_t num_queries, const MatrixView& base, const float* base_norms,
                                         const int64_t* base_ids, int64_t num_base, ThreadTeam& team)
    : base_(base, base_ids, base_norms, num_base, team) {
  queries_.emplace(queries, query_ids, query_norms, num_queries, team);
}

int64_t FixedPointPrefilter::bytes(const MatrixView& queries, int64_t num_queries, const MatrixView& base,
                                   int64_t num_base, bool has_one_copy, int64_t num_candidates, double num_scores,
                                   const Selection& selection, int64_t budget_bytes) {
  constexpr double kMinScoresPerRow = 400.0;
  if (!can_have_copies(base.dim, selection) || kernel_table().accumulate_int16 == nullptr) return 0;
  // Entries that are kept cost more with a prefilter (measured).
  if (4 * (selection.num_neighbors + selection.range_min) > num_candidates) return 0;
  if (2 * num_base < base.num_rows || (!has_one_copy && 2 * num_queries < queries.num_rows)) return 0;
  const int64_t num_copied = has_one_copy ? num_base : num_queries + num_base;
  if (num_scores < kMinScoresPerRow * static_cast<double>(num_copied)) return 0;
  const int64_t bytes = FixedPointCopy::bytes(base) + (has_one_copy ? 0 : FixedPointCopy::bytes(queries));
  return allowed_copy_bytes(bytes, budget_bytes);
}

Prefilter FixedPointPrefilter::prefilter() const {
  const FixedPointCopy& queries = queries_ ? *queries_ : base_;
  const double error = fixed_point_error(base_.view().dim, queries.residual(), base_.residual());
  return {queries.view(), base_.view(), true, 2.0 * error * queries.scale() * base_.scale()};
}

}  // namespace bse

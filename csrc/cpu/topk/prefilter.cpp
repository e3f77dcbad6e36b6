#include "cpu/topk/prefilter.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/prefilter_bound.h"
#include "cpu/simd/dispatch.h"

namespace bse {

namespace {

// For a row with norm 0, which for cosine is the reciprocal of its length: returns whether its squared norm is 0 rather
// than infinite. If all elements are below 1 in magnitude, it is 0.
bool is_small(const MatrixView& features, int64_t row) {
  std::vector<float> scratch(static_cast<size_t>(features.dim));
  const float* elements = features.read(row, 0, features.dim, scratch.data());
  return std::all_of(elements, elements + features.dim, [](float element) { return std::fabs(element) < 1.0f; });
}

bool rows_have_bound(const MatrixView& features, const float* norms, const int64_t* ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (has_prefilter_bound(norms[i])) continue;
    if (norms[i] != 0.0f || !is_small(features, ids != nullptr ? ids[i] : i)) return false;
  }
  return true;
}

}  // namespace

bool can_prefilter_blocks(const MatrixView& queries, const MatrixView& base) {
  return kernel_table().accumulate_pairs != nullptr && queries.holds_bfloat16() && base.holds_bfloat16();
}

bool can_prefilter_gathered(const MatrixView& queries, const MatrixView& base) {
  if (queries.dtype != base.dtype) return false;
  if (queries.dtype == DType::kBFloat16) return kernel_table().gather_bfloat16_dots != nullptr;
  return kernel_table().gather_dots != nullptr && queries.reads_in_place() && base.reads_in_place();
}

bool prefilter_is_bounded(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                          const float* base_norms, const int64_t* ids, int64_t count, const Selection& selection) {
  // Only cosine has this fast path: prefilter_bound.h bounds no error for other metrics.
  if (selection.metric != Metric::kCosine || selection.has_max_score || base.dim > kMaxPrefilterDim) return false;
  return rows_have_bound(queries, query_norms, ids, count) &&
         (base_norms == query_norms || rows_have_bound(base, base_norms, ids, count));
}

Prefilter prefilter_by_features(const MatrixView& queries, const MatrixView& base) {
  return {queries, base, false, 2.0 * prefilter_error(base.dim)};
}

NormalizedPrefilter::NormalizedPrefilter(const MatrixView& queries, const float* query_norms, const MatrixView& base,
                                         const float* base_norms, const int64_t* ids, int64_t count, ThreadTeam& team)
    : queries_(queries, ids, query_norms, count, team) {
  if (base_norms != query_norms) base_.emplace(base, ids, base_norms, count, team);
}

int64_t NormalizedPrefilter::bytes(const MatrixView& queries, const MatrixView& base, bool is_same, int64_t count,
                                   int64_t budget_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30, kMinDimensions = 32;
  if (kernel_table().accumulate_pairs == nullptr || kernel_table().gather_bfloat16_dots == nullptr) return 0;
  if (base.dim < kMinDimensions || 2 * count < std::max(queries.num_rows, base.num_rows)) return 0;
  const int64_t bytes = NormalizedCopy::bytes(queries) + (is_same ? 0 : NormalizedCopy::bytes(base));
  return bytes <= std::min(kMaxBytes, budget_bytes / 2) ? bytes : 0;
}

Prefilter NormalizedPrefilter::prefilter() const {
  const NormalizedCopy& base = base_ ? *base_ : queries_;
  const double error = normalized_copy_error(base.view().dim, queries_.residual(), base.residual());
  return {queries_.view(), base.view(), true, 2.0 * error};
}

BorderlineRescorer::BorderlineRescorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                                       const Selection& selection, bool wants_scores)
    : queries_(queries),
      base_(base),
      metric_(selection.metric),
      range_min_(selection.range_min),
      num_neighbors_(selection.num_neighbors),
      wants_scores_(wants_scores),
      max_depth_(std::min(plan.depth_block, base.dim)),
      kernels_(kernel_table()),
      rows_(static_cast<size_t>(kernels_.panel_width)),
      query_(queries.reads_in_place() ? 0 : max_depth_),
      candidates_(base.reads_in_place() ? 0 : kernels_.panel_width * max_depth_),
      panel_(kernels_.panel_width * max_depth_),
      chains_(kernels_.panel_width) {}

bool BorderlineRescorer::resolve(TopKBuffer& buffer, int64_t query_id, float query_norm) {
  query_id_ = query_id;
  query_norm_ = query_norm;
  if (!buffer.finish_prefilter(kernels_)) return false;
  if (finer_ != nullptr && buffer.size() > 0) refine(buffer);
  if (wants_scores_) {
    rescore_all(buffer);
    buffer.finish(kernels_, range_min_);
    return true;
  }
  float cut = buffer.cut_score();
  if (range_min_ >= buffer.size()) {
    buffer.clear();
  } else if (range_min_ > 0) {
    const float skipped = kernels_.find_cut(buffer.scores(), buffer.size(), range_min_).score;
    float limit;
    if (!find_best(buffer, range_min_, skipped, &limit)) return false;
    for (size_t c = 0; c < close_.size(); ++c) {
      if (is_best_[c]) buffer.set_score(close_[c], kInfinity);
    }
    buffer.filter(kernels_, limit, false);
    if (buffer.size() > num_neighbors_) cut = kernels_.find_cut(buffer.scores(), buffer.size(), num_neighbors_).score;
  }
  if (buffer.size() > num_neighbors_) {
    float limit;
    if (!find_best(buffer, num_neighbors_, cut, &limit)) return false;
    for (size_t c = 0; c < close_.size(); ++c) buffer.set_score(close_[c], is_best_[c] ? kInfinity : -kInfinity);
    buffer.filter(kernels_, limit, true);
  }
  return true;
}

void BorderlineRescorer::refine(TopKBuffer& buffer) {
  refined_ids_.resize(static_cast<size_t>(buffer.size()));
  for (size_t n = 0; n < refined_ids_.size(); ++n) refined_ids_[n] = candidate_ids_[buffer.tiebreaks()[n]];
  refined_scores_.assign(buffer.scores(), buffer.scores() + buffer.size());
  finer_->refine(refined_ids_.data(), buffer.size(), refined_scores_.data());
  margin_ = finer_->margin();
  buffer.refine(kernels_, refined_scores_.data(), margin_);
}

// Finds the num_best best entries: all above *limit, and the entries close_[c] with is_best_[c], which are not above.
// Returns false if too many entries are close. cut: TopKCut::score of the num_best best approximate scores
bool BorderlineRescorer::find_best(const TopKBuffer& buffer, int64_t num_best, float cut, float* limit) {
  // At least num_best scores are not below the cut, and at most num_best are above it. So an entry further above the
  // cut than the margin is among the best. An entry further below it than the margin is worse than num_best others.
  const float* scores = buffer.scores();
  const float high = float_below(static_cast<double>(cut) + margin_);
  const float low = float_below(static_cast<double>(cut) - margin_);
  close_.resize(static_cast<size_t>(buffer.size()));
  int64_t num_above = 0;
  size_t num_close = 0;
  for (int64_t n = 0; n < buffer.size(); ++n) {
    close_[num_close] = n;
    num_close += scores[n] >= low && scores[n] <= high;
    num_above += scores[n] > high;
  }
  close_.resize(num_close);
  *limit = high;
  const int64_t num_wanted = std::min<int64_t>(num_best - num_above, static_cast<int64_t>(num_close));
  is_best_.assign(num_close, num_wanted == static_cast<int64_t>(num_close));
  if (num_wanted == static_cast<int64_t>(num_close)) return true;
  if (static_cast<int64_t>(num_close) > max_close_) return false;
  rescore(buffer);
  ranks_.resize(num_close);
  for (size_t c = 0; c < num_close; ++c) ranks_[c] = candidate_rank(close_scores_[c], static_cast<uint32_t>(c));
  const auto first_other = ranks_.begin() + num_wanted;
  std::nth_element(ranks_.begin(), first_other, ranks_.end());
  for (auto rank = ranks_.begin(); rank != first_other; ++rank) is_best_[rank_tiebreak(*rank)] = true;
  return true;
}

void BorderlineRescorer::rescore_all(TopKBuffer& buffer) {
  close_.resize(static_cast<size_t>(buffer.size()));
  std::iota(close_.begin(), close_.end(), 0);
  rescore(buffer);
  for (const int64_t n : close_) buffer.set_score(n, close_scores_[static_cast<size_t>(n)]);
  buffer.end_prefilter();
}

// Computes exact scores of the entries at close_, one panel of candidates at a time.
void BorderlineRescorer::rescore(const TopKBuffer& buffer) {
  const auto num_close = static_cast<int64_t>(close_.size()), width = int64_t{kernels_.panel_width};
  close_scores_.resize(close_.size());
  const auto tiebreak = [&](int64_t c) { return buffer.tiebreaks()[close_[static_cast<size_t>(c)]]; };
  for (int64_t c = 0; c < num_close; ++c) base_.prefetch(candidate_ids_[tiebreak(c)], 0, max_depth_);
  for (int64_t first = 0; first < num_close; first += width) {
    const int64_t count = std::min(width, num_close - first);
    for (int64_t k = 0; k < base_.dim; k += max_depth_) {
      const int64_t depth = std::min(max_depth_, base_.dim - k);
      for (int64_t c = 0; c < count; ++c) {
        rows_[static_cast<size_t>(c)] =
            base_.read(candidate_ids_[tiebreak(first + c)], k, depth, candidates_.data() + c * max_depth_);
      }
      // Packing is faster for a multiple of 8 columns.
      int num_packed = static_cast<int>(count);
      for (; num_packed % 8 != 0; ++num_packed) rows_[static_cast<size_t>(num_packed)] = rows_[0];
      kernels_.pack_panel(rows_.data(), num_packed, depth, panel_.data());
      const float* query = queries_.read(query_id_, k, depth, query_.data());
      kernels_.accumulate(&query, 1, panel_.data(), 1, depth, k > 0, chains_.data(), width);
    }
    for (int64_t c = 0; c < count; ++c) {
      const uint32_t entry = tiebreak(first + c);
      const float norm = candidate_norms_[norm_indices_ != nullptr ? norm_indices_[entry] : entry];
      close_scores_[static_cast<size_t>(first + c)] = finish_score(metric_, chains_[c], query_norm_, norm);
    }
  }
}

}  // namespace bse

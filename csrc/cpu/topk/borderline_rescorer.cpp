#include "cpu/topk/borderline_rescorer.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "cpu/simd/dispatch.h"
#include "cpu/topk/prefilter.h"

namespace bse {

BorderlineRescorer::BorderlineRescorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                                       const Selection& selection, bool wants_scores)
    : queries_(queries),
      base_(base),
      metric_(selection.metric),
      range_min_(selection.range_min),
      num_neighbors_(selection.num_neighbors),
      wants_scores_(wants_scores),
      max_depth_(std::min(plan.depth_block, base.dim)),
      features_margin_(can_prefilter_gathered(queries, base) ? prefilter_by_features(queries, base).margin : 0.0),
      kernels_(kernel_table()),
      rows_(static_cast<size_t>(kernels_.panel_width)),
      query_(queries.reads_in_place() ? 0 : max_depth_),
      candidates_(base.reads_in_place() ? 0 : kernels_.panel_width * max_depth_),
      panel_(kernels_.panel_width * max_depth_),
      chains_(kernels_.panel_width),
      limits_(plan.top_k_capacity),
      hits_(plan.top_k_capacity + 16) {
  close_.reserve(static_cast<size_t>(plan.top_k_capacity));  // so that they do not grow beyond what the plan counts
  open_.reserve(static_cast<size_t>(plan.top_k_capacity));
}

bool BorderlineRescorer::prepare(TopKBuffer& buffer, int64_t query_id) {
  if (!buffer.finish_prefilter(kernels_)) {
    num_close_ += max_close_ + 1;  // at least
    return false;
  }
  if (copied_ != nullptr || wants_scores_ || range_min_ > 0 || buffer.size() <= num_neighbors_) return true;
  find_close(buffer, buffer.cut_score());
  if (static_cast<int64_t>(close_.size()) > kMaxPrefetched) return true;
  queries_.prefetch(query_id, 0, max_depth_);
  for (const int64_t n : close_) base_.prefetch(candidate_ids_[buffer.tiebreaks()[n]], 0, max_depth_);
  return true;
}

bool BorderlineRescorer::resolve(TopKBuffer& buffer, int64_t query_id, float query_norm) {
  query_id_ = query_id;
  query_norm_ = query_norm;
  if (copied_ != nullptr && buffer.size() > 0) refine_all(buffer);
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

void BorderlineRescorer::refine_all(TopKBuffer& buffer) {
  ids_.resize(static_cast<size_t>(buffer.size()));
  for (size_t n = 0; n < ids_.size(); ++n) ids_[n] = candidate_ids_[buffer.tiebreaks()[n]];
  margin_ = copied_->refined_margin();
  buffer.refine(kernels_, margin_, [&](float* scores) { copied_->refine(ids_.data(), buffer.size(), scores); });
}

// Finds the num_best best entries: all above *limit, and the entries close_[c] with is_best_[c], which are not above.
// Returns false if too many entries are close. cut: TopKCut::score of the num_best best approximate scores
bool BorderlineRescorer::find_best(const TopKBuffer& buffer, int64_t num_best, float cut, float* limit) {
  const int64_t num_above = find_close(buffer, cut);
  const auto num_close = static_cast<int64_t>(close_.size());
  num_close_ += num_close;
  const int64_t num_wanted = std::min(num_best - num_above, num_close);
  if (num_wanted < num_close && num_close > max_close_) return false;
  find_best_of_close(buffer, num_wanted);
  *limit = high_;
  return true;
}

// Sets close_ to the entries that are too close to the cut to call, and high_ to the limit above them. Returns the
// number of entries above that limit. cut: TopKCut::score of some number of best approximate scores
int64_t BorderlineRescorer::find_close(const TopKBuffer& buffer, float cut) {
  // At least num_best scores are not below the cut, and at most num_best are above it. So an entry further above the
  // cut than the margin is among the best. An entry further below it than the margin is worse than num_best others.
  high_ = float_below(static_cast<double>(cut) + margin_);
  const float low = float_below(static_cast<double>(cut) - margin_);
  std::fill(limits_.data(), limits_.data() + buffer.size(), high_);
  const int64_t num_not_above = kernels_.find_entries(limits_.data(), buffer.scores(), buffer.size(), hits_.data());
  close_.clear();
  for (int64_t n = 0; n < num_not_above; ++n) {
    if (buffer.scores()[hits_[n]] >= low) close_.push_back(hits_[n]);
  }
  return buffer.size() - num_not_above;
}

// Sets is_best_ for the num_best best of close_. Sorts out what finer approximate scores can decide, and rescores the
// rest exactly.
void BorderlineRescorer::find_best_of_close(const TopKBuffer& buffer, int64_t num_best) {
  is_best_.assign(close_.size(), false);
  if (num_best == 0) return;
  open_.resize(close_.size());
  std::iota(open_.begin(), open_.end(), size_t{0});
  // The margin of fixed-point copies is in units far below a cosine, so it is always the larger number. Dot products of
  // the features are finer in that case too.
  if (features_margin_ > 0.0 && features_margin_ < margin_ && num_best < static_cast<int64_t>(close_.size())) {
    num_best = refine_close(buffer, num_best);
  }
  if (num_best < static_cast<int64_t>(open_.size())) {
    rescore(buffer);
    ranks_.resize(open_.size());
    for (size_t n = 0; n < open_.size(); ++n) ranks_[n] = candidate_rank(exact_scores_[n], static_cast<uint32_t>(n));
    std::nth_element(ranks_.begin(), ranks_.begin() + num_best, ranks_.end());
    for (int64_t n = 0; n < num_best; ++n) is_best_[open_[rank_tiebreak(ranks_[static_cast<size_t>(n)])]] = true;
  } else {
    for (const size_t c : open_) is_best_[c] = true;
  }
}

// Sets is_best_ for those of open_ that are certainly among its num_best best, by dot products of the features
// themselves. Removes them and those that certainly are not. Returns how many of the others are among the best.
int64_t BorderlineRescorer::refine_close(const TopKBuffer& buffer, int64_t num_best) {
  ids_.clear();
  for (const int64_t n : close_) ids_.push_back(candidate_ids_[buffer.tiebreaks()[n]]);
  finer_scores_.resize(close_.size());
  const auto gather = [&](auto kernel, auto* queries, auto* base) {
    kernel(queries + query_id_ * queries_.row_stride_elements, base, base_.row_stride_elements, base_.dim, ids_.data(),
           static_cast<int64_t>(ids_.size()), finer_scores_.data());
  };
  if (queries_.dtype == DType::kBFloat16) {
    gather(kernels_.gather_bfloat16_dots, static_cast<const uint16_t*>(queries_.data),
           static_cast<const uint16_t*>(base_.data));
  } else {
    gather(kernels_.gather_dots, static_cast<const float*>(queries_.data), static_cast<const float*>(base_.data));
  }
  for (size_t c = 0; c < close_.size(); ++c) {
    finer_scores_[c] = finish_score(metric_, finer_scores_[c], query_norm_, norm_of(buffer.tiebreaks()[close_[c]]));
  }
  ordered_ = finer_scores_;
  const auto worst = ordered_.begin() + (num_best - 1);
  std::nth_element(ordered_.begin(), worst, ordered_.end(), std::greater<>());
  const float high = float_below(static_cast<double>(*worst) + features_margin_);
  const float low = float_below(static_cast<double>(*worst) - features_margin_);
  open_.clear();
  for (size_t c = 0; c < close_.size(); ++c) {
    is_best_[c] = finer_scores_[c] > high;
    num_best -= is_best_[c];
    if (finer_scores_[c] >= low && finer_scores_[c] <= high) open_.push_back(c);
  }
  return num_best;
}

void BorderlineRescorer::rescore_all(TopKBuffer& buffer) {
  close_.resize(static_cast<size_t>(buffer.size()));
  open_.resize(close_.size());
  std::iota(close_.begin(), close_.end(), 0);
  std::iota(open_.begin(), open_.end(), size_t{0});
  rescore(buffer);
  for (const int64_t n : close_) buffer.set_score(n, exact_scores_[static_cast<size_t>(n)]);
  buffer.end_prefilter();
}

// Computes exact scores of the entries at open_, one panel of candidates at a time.
void BorderlineRescorer::rescore(const TopKBuffer& buffer) {
  const auto num_open = static_cast<int64_t>(open_.size()), width = int64_t{kernels_.panel_width};
  exact_scores_.resize(open_.size());
  const auto tiebreak = [&](int64_t n) { return buffer.tiebreaks()[close_[open_[static_cast<size_t>(n)]]]; };
  for (int64_t c = 0; c < num_open; ++c) base_.prefetch(candidate_ids_[tiebreak(c)], 0, max_depth_);
  for (int64_t first = 0; first < num_open; first += width) {
    const int64_t count = std::min(width, num_open - first);
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
      exact_scores_[static_cast<size_t>(first + c)] = finish_score(metric_, chains_[c], query_norm_, norm_of(entry));
    }
  }
}

}  // namespace bse

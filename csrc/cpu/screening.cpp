#include "screening.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../common/screening.h"
#include "isa.h"

namespace bse {

namespace {

// Whether a row whose reciprocal norm is 0 is one of zeros, or of numbers so small that their squares are.
bool is_small(const MatrixView& features, int64_t row) {
  std::vector<float> scratch(static_cast<size_t>(features.dim));
  const float* elements = features.read(row, 0, features.dim, scratch.data());
  return std::all_of(elements, elements + features.dim, [](float element) { return std::fabs(element) < 1.0f; });
}

bool rows_allow_screening(const MatrixView& features, const float* terms, const int64_t* ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (allows_screening(terms[i])) continue;
    if (terms[i] != 0.0f || !is_small(features, ids != nullptr ? ids[i] : i)) return false;
  }
  return true;
}

}  // namespace

bool can_screen_blocks(const MatrixView& queries, const MatrixView& base) {
  return kernel_table().accumulate_pairs != nullptr && queries.holds_bfloat16() && base.holds_bfloat16();
}

bool can_screen_gathered(const MatrixView& queries, const MatrixView& base) {
  if (queries.dtype != base.dtype) return false;
  if (queries.dtype == DType::kBFloat16) return kernel_table().gather_bfloat16_dots != nullptr;
  return kernel_table().gather_dots != nullptr && queries.reads_in_place() && base.reads_in_place();
}

double screening_margin(const MatrixView& queries, const float* query_terms, const MatrixView& base,
                        const float* base_terms, const int64_t* ids, int64_t count, const Selection& selection) {
  if (selection.metric != Metric::kCosine || selection.has_max_score || base.dim > kMostScreenedDimensions) return 0.0;
  if (!rows_allow_screening(queries, query_terms, ids, count)) return 0.0;
  if (base_terms != query_terms && !rows_allow_screening(base, base_terms, ids, count)) return 0.0;
  return 2.0 * screening_error(base.dim);
}

Borderline::Borderline(const MatrixView& queries, const MatrixView& base, Metric metric)
    : queries_(queries), base_(base), metric_(metric), kernels_(kernel_table()) {}

bool Borderline::keep_best(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best) {
  if (buffer.size() <= num_best) return true;
  return split(buffer, query_id, query_term, num_best, buffer.cut_score(), true);
}

bool Borderline::drop_best(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best) {
  if (buffer.size() <= num_best) {
    buffer.clear();
    return true;
  }
  const float cut = kernels_.find_cut(buffer.scores(), buffer.size(), num_best).score;
  return split(buffer, query_id, query_term, num_best, cut, false);
}

// cut: the num_best-th best screened score
bool Borderline::split(TopKBuffer& buffer, int64_t query_id, float query_term, int64_t num_best, float cut,
                       bool keep_best) {
  // At most num_best - 1 others score above the cut, so whoever is further above it than two errors is among the best;
  // whoever is further below it is worse than num_best others.
  const float* scores = buffer.scores();
  const double high = static_cast<double>(cut) + margin_, low = static_cast<double>(cut) - margin_;
  int64_t num_above = 0;
  num_close_ = 0;
  for (int64_t n = 0; n < buffer.size(); ++n) {
    if (scores[n] > high) {
      ++num_above;
    } else if (scores[n] >= low) {
      if (num_close_ == kMostClose) return false;
      close_[num_close_++] = n;
    }
  }
  rescore(buffer, query_id, query_term);
  bool is_best[kMostClose];
  for (int64_t c = 0; c < num_close_; ++c) {
    int64_t num_better = num_above;
    for (int64_t other = 0; other < num_close_; ++other) {
      num_better += close_scores_[other] > close_scores_[c] || (close_scores_[other] == close_scores_[c] && other < c);
    }
    is_best[c] = num_better < num_best;
  }
  int64_t c = 0;
  buffer.retain([&](int64_t n, float score) {
    const bool is_close = c < num_close_ && close_[c] == n;
    return (is_close ? is_best[c++] : score > high) == keep_best;
  });
  return true;
}

void Borderline::rescore_all(TopKBuffer& buffer, int64_t query_id, float query_term) {
  for (int64_t first = 0; first < buffer.size(); first += kMostClose) {
    num_close_ = std::min(kMostClose, buffer.size() - first);
    std::iota(close_, close_ + num_close_, first);
    rescore(buffer, query_id, query_term);
    for (int64_t c = 0; c < num_close_; ++c) buffer.set_score(close_[c], close_scores_[c]);
  }
}

// Defined scores of the entries at close_.
void Borderline::rescore(const TopKBuffer& buffer, int64_t query_id, float query_term) {
  const float* queries[kMostClose];
  const float* candidates[kMostClose];
  for (int64_t k = 0; k < base_.dim; k += kDepth) {
    const int64_t depth = std::min(kDepth, base_.dim - k);
    std::fill(queries, queries + num_close_, queries_.read(query_id, k, depth, query_));
    for (int64_t c = 0; c < num_close_; ++c) {
      candidates[c] = base_.read(candidate_ids_[buffer.tiebreaks()[close_[c]]], k, depth, candidates_[c]);
    }
    kernels_.dot_chains(queries, candidates, static_cast<int>(num_close_), depth, k > 0, close_scores_);
  }
  for (int64_t c = 0; c < num_close_; ++c) {
    const float term = candidate_terms_[buffer.tiebreaks()[close_[c]]];
    close_scores_[c] = finish_score(metric_, close_scores_[c], query_term, term);
  }
}

}  // namespace bse

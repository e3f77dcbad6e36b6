#include "similarity_topk.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "isa.h"

namespace bse {

const float BlockScorer::kNaN = std::numeric_limits<float>::quiet_NaN();

namespace {

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A squared norm may overflow although every element is finite: that is defined, and allowed.
void require_finite(const MatrixView& features, const char* name, int64_t row) {
  std::vector<float> scratch(static_cast<size_t>(features.dim));
  const float* elements = features.read(row, 0, features.dim, scratch.data());
  for (int64_t k = 0; k < features.dim; ++k) {
    if (!std::isfinite(elements[k])) {
      throw std::invalid_argument(std::string(name) + "[" + std::to_string(row) + ", " + std::to_string(k) +
                                  "]: expected finite values, got " + std::to_string(elements[k]));
    }
  }
}

}  // namespace

int64_t BlockPlan::workspace_bytes(int64_t dim) const {
  const int64_t depth = std::min(depth_block, dim);
  return 4 * (candidate_block * depth + stripe_rows(dim) * candidate_block + (row_block + 64) * depth) +
         8 * top_k_capacity * (row_block + 1) + (64 + sizeof(TopKBuffer)) * row_block + 4096;
}

BlockPlan BlockPlan::fit(const Selection& selection, int64_t max_rows_per_block, int64_t num_candidates, int64_t dim,
                         int num_threads, int64_t extra_bytes, int64_t fixed_bytes, int64_t budget_bytes) {
  const int panel_width = similarity_kernels().panel_width;
  const int64_t least_candidates = round_up(64, panel_width);
  BlockPlan plan;
  plan.num_threads = num_threads;
  plan.row_block = std::max<int64_t>(1, std::min(plan.row_block, max_rows_per_block));
  plan.candidate_block = round_up(std::min(plan.candidate_block, std::max<int64_t>(1, num_candidates)), panel_width);
  plan.depth_block = std::max<int64_t>(1, std::min(plan.depth_block, dim));
  plan.top_k_capacity =
      TopKBuffer::capacity(selection.num_neighbors + selection.range_min, num_candidates, panel_width);
  // Wide features are worth a larger row block, narrow budgets are met by giving up the cheapest thing first.
  const auto needed = [&] { return plan.num_threads * (plan.workspace_bytes(dim) + extra_bytes); };
  while (needed() > budget_bytes) {
    if (plan.row_block > 32) {
      plan.row_block /= 2;
    } else if (plan.candidate_block > least_candidates) {
      plan.candidate_block = std::max(least_candidates, round_up(plan.candidate_block / 2, panel_width));
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

void compute_row_terms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out) {
  const SimilarityKernels& kernels = similarity_kernels();
  constexpr int kRowsAtOnce = 16;
  constexpr int64_t kDepth = 256;
  team.for_ranges(count, 4 * kRowsAtOnce, [&](int64_t begin, int64_t end, Worker& worker) {
    float scratch[kRowsAtOnce][kDepth];
    const float* rows[kRowsAtOnce];
    float norms[kRowsAtOnce];
    for (int64_t first = begin; first < end; first += kRowsAtOnce) {
      if (worker.should_stop()) return;
      const int num_rows = static_cast<int>(std::min<int64_t>(kRowsAtOnce, end - first));
      const auto id = [&](int i) { return ids != nullptr ? ids[first + i] : first + i; };
      for (int i = 0; i < num_rows; ++i) norms[i] = 0.0f;
      for (int64_t k = 0; k < features.dim; k += kDepth) {
        const int64_t depth = std::min(kDepth, features.dim - k);
        for (int i = 0; i < num_rows; ++i) rows[i] = features.read(id(i), k, depth, scratch[i]);
        kernels.squared_norms(rows, num_rows, depth, true, norms);
      }
      for (int i = 0; i < num_rows; ++i) {
        if (!std::isfinite(norms[i])) require_finite(features, name, id(i));
        out[first + i] = row_term(metric, norms[i]);
      }
    }
  });
}

BlockScorer::BlockScorer(const BlockPlan& plan, const MatrixView& queries, const MatrixView& base,
                         const Selection& selection)
    : plan_(plan), queries_(queries), base_(base), selection_(selection), kernels_(similarity_kernels()) {
  panels_ = AlignedBuffer<float>(plan.candidate_block * plan.depth_block);
  scores_ = AlignedBuffer<float>(plan.stripe_rows(queries.dim) * plan.candidate_block);
  if (!queries.reads_in_place()) converted_rows_ = AlignedBuffer<float>(plan.row_block * plan.depth_block);
  if (!base.reads_in_place()) converted_ = AlignedBuffer<float>(kernels_.panel_width * plan.depth_block);
  kept_scores_ = AlignedBuffer<float>(plan.row_block * plan.top_k_capacity);
  kept_tiebreaks_ = AlignedBuffer<uint32_t>(plan.row_block * plan.top_k_capacity);
  if (selection.sort) ranks_ = AlignedBuffer<uint64_t>(plan.top_k_capacity);
  rows_.resize(static_cast<size_t>(std::max<int64_t>(plan.row_block, kernels_.panel_width)));
  buffers_.reserve(static_cast<size_t>(plan.row_block));
}

void BlockScorer::begin(const int64_t* query_ids, const float* query_terms, int64_t num_rows) {
  query_ids_ = query_ids;
  query_terms_ = query_terms;
  num_rows_ = num_rows;
  buffers_.clear();
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t first = i * plan_.top_k_capacity;
    buffers_.emplace_back(kept_scores_.data() + first, kept_tiebreaks_.data() + first, plan_.top_k_capacity,
                          selection_.num_neighbors + selection_.range_min);
  }
}

bool BlockScorer::offer(const int64_t* candidate_ids, const float* candidate_terms, int64_t count,
                        const int64_t* excluded, Worker& worker) {
  const int64_t dim = base_.dim, max_rows = plan_.stripe_rows(dim);
  for (int64_t first = 0; first < count; first += plan_.candidate_block) {
    const int64_t size = std::min(plan_.candidate_block, count - first);
    for (int64_t first_row = 0; first_row < num_rows_; first_row += max_rows) {
      const int64_t num_rows = std::min(max_rows, num_rows_ - first_row);
      for (int64_t k = 0; k < dim; k += plan_.depth_block) {
        const int64_t depth = std::min(plan_.depth_block, dim - k);
        if (first_row == 0) pack(candidate_ids + first, size, k, depth);  // later stripes find the only depth packed
        if (!accumulate(first_row, num_rows, size, k, depth, worker)) return false;
      }
      for (int64_t i = first_row; i < first_row + num_rows; ++i) {
        float* scores = scores_.data() + (i - first_row) * plan_.candidate_block;
        kernels_.finish_scores(selection_.metric, query_terms_[i], candidate_terms + first, size, scores);
        if (excluded[i] >= first && excluded[i] < first + size) scores[excluded[i] - first] = kNaN;
        select(i, scores, candidate_ids + first, size, static_cast<uint32_t>(first));
      }
    }
  }
  return true;
}

// Candidates, elements [first_k, first_k + depth), into panels.
void BlockScorer::pack(const int64_t* candidate_ids, int64_t count, int64_t first_k, int64_t depth) {
  const int width = kernels_.panel_width;
  for (int64_t first = 0; first < count; first += width) {
    const int columns = static_cast<int>(std::min<int64_t>(width, count - first));
    for (int c = 0; c < columns; ++c) {
      rows_[c] = base_.read(candidate_ids[first + c], first_k, depth, converted_.data() + c * depth);
    }
    kernels_.pack_panel(rows_.data(), columns, depth, panels_.data() + first * depth);
  }
}

// The same elements of a stripe of rows times the panels, added to the stripe's chains.
bool BlockScorer::accumulate(int64_t first_row, int64_t num_rows, int64_t count, int64_t first_k, int64_t depth,
                             Worker& worker) {
  constexpr int kPanelsBetweenPolls = 8;
  const int width = kernels_.panel_width;
  const int num_panels = static_cast<int>((count + width - 1) / width);
  for (int64_t i = 0; i < num_rows; ++i) {
    rows_[i] = queries_.read(query_ids_[first_row + i], first_k, depth, converted_rows_.data() + i * depth);
  }
  for (int p = 0; p < num_panels; p += kPanelsBetweenPolls) {
    if (worker.should_stop()) return false;
    kernels_.accumulate(rows_.data(), static_cast<int>(num_rows), panels_.data() + p * depth * width,
                        std::min(kPanelsBetweenPolls, num_panels - p), depth, first_k > 0, scores_.data() + p * width,
                        plan_.candidate_block);
  }
  return true;
}

void BlockScorer::select(int64_t i, float* scores, const int64_t* candidate_ids, int64_t count,
                         uint32_t first_tiebreak) {
  const int64_t* labels = selection_.labels;
  if (labels != nullptr && labels[query_ids_[i]] >= 0) {
    const int64_t label = labels[query_ids_[i]];
    for (int64_t c = 0; c < count; ++c) {
      if (labels[candidate_ids[c]] == label) scores[c] = kNaN;
    }
  }
  if (selection_.has_max_score) {
    for (int64_t c = 0; c < count; ++c) {
      if (scores[c] > selection_.max_score) scores[c] = kNaN;
    }
  }
  buffers_[static_cast<size_t>(i)].add(kernels_, scores, count, first_tiebreak);
}

void BlockScorer::finish_row(int64_t i, const int64_t* tiebreak_ids, int64_t result_row, const Links& links) {
  TopKBuffer& buffer = buffers_[static_cast<size_t>(i)];
  buffer.finish(kernels_, selection_.range_min);
  const int64_t num_links = buffer.size(), num_columns = selection_.num_neighbors;
  const float* kept_scores = buffer.scores();
  const uint32_t* tiebreaks = buffer.tiebreaks();
  int32_t* neighbors = links.neighbors + result_row * num_columns;
  float* scores = links.scores == nullptr ? nullptr : links.scores + result_row * num_columns;
  if (selection_.sort) {
    uint64_t* ranks = ranks_.data();
    for (int64_t n = 0; n < num_links; ++n) {
      ranks[n] = candidate_rank(kept_scores[n], static_cast<uint32_t>(tiebreak_ids[tiebreaks[n]]));
    }
    std::sort(ranks, ranks + num_links);
    for (int64_t n = 0; n < num_links; ++n) {
      neighbors[n] = static_cast<int32_t>(rank_tiebreak(ranks[n]));
      if (scores != nullptr) scores[n] = rank_score(ranks[n]);
    }
  } else {
    for (int64_t n = 0; n < num_links; ++n) neighbors[n] = static_cast<int32_t>(tiebreak_ids[tiebreaks[n]]);
    if (scores != nullptr) std::copy(kept_scores, kept_scores + num_links, scores);
  }
  std::fill(neighbors + num_links, neighbors + num_columns, -1);
  if (scores != nullptr) {
    std::fill(scores + num_links, scores + num_columns, -std::numeric_limits<float>::infinity());
  }
}

}  // namespace bse

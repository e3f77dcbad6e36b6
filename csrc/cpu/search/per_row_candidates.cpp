#include "cpu/search/per_row_candidates.h"

#include <memory>
#include <optional>

#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

// Chooses the prefilter of one thread. If the current one leaves more than a quarter of 64 rows undecided, the next one
// takes over. After the last one there is none. The choice affects only speed.
class PrefilterLadder {
 public:
  explicit PrefilterLadder(const PerRowPrefilters& prefilters) {
    int num_levels = 0;
    if (prefilters.copy != nullptr) {
      levels_[num_levels++] = Level::kByHighBytes;
      levels_[num_levels++] = Level::kByAllBytes;
    }
    if (prefilters.by_features.is_on()) levels_[num_levels++] = Level::kByFeatures;
  }

  enum class Level { kByHighBytes, kByAllBytes, kByFeatures, kNone };
  Level current() const { return levels_[level_]; }

  void report(bool has_decided) {
    num_undecided_ += !has_decided;
    if (++num_reported_ < kNumWatched) return;
    if (4 * num_undecided_ > kNumWatched) ++level_;
    num_reported_ = num_undecided_ = 0;
  }

 private:
  static constexpr int kNumWatched = 64;

  Level levels_[4] = {Level::kNone, Level::kNone, Level::kNone, Level::kNone};
  int level_ = 0;
  int num_reported_ = 0, num_undecided_ = 0;
};

// State of one thread.
class RowWorkspace {
  using Level = PrefilterLadder::Level;

 public:
  RowWorkspace(const GraphSubset& subset, const BlockPlan& plan, const PerRowPrefilters& prefilters, const Edges& edges)
      : subset_(subset),
        kernels_(kernel_table()),
        by_features_(prefilters.by_features),
        ladder_(prefilters),
        candidates_(subset, subset.request.num_candidates, subset.request.num_rows - 1),
        block_(plan, subset.request.features, subset.request.documents, subset.request.selection, edges),
        scores_(ladder_.current() == Level::kNone ? 0 : subset.request.num_candidates) {
    if (prefilters.copy != nullptr) copied_scores_.emplace(subset.request.features, *prefilters.copy);
  }

  // Finishes one row of the subset.
  void run(int64_t row, Worker& worker) {
    candidates_.draw_own(row);
    query_id_ = subset_.instance(row);
    query_norm_ = subset_.query_norms[row];
    if (ladder_.current() != Level::kNone) {
      const bool is_decided = select_edges(row);
      ladder_.report(is_decided);
      if (is_decided) return;
    }
    begin(0.0);
    const int64_t nothing_excluded = -1;
    if (!block_.offer(candidates_.ids(), candidates_.norms(), candidates_.size(), &nothing_excluded, worker)) return;
    block_.finish_row(0, candidates_.ids(), row);
  }

 private:
  void begin(double margin) { block_.begin(&query_id_, &query_norm_, 1, margin); }

  // Selects the edges of a row by approximate scores. Returns false if these cannot decide which candidates are best.
  bool select_edges(int64_t row) {
    const int64_t count = candidates_.size();
    const Level level = ladder_.current();
    if (level == Level::kByFeatures) {
      begin(by_features_.margin);
      score_by_features();
    } else {
      copied_scores_->set_query(query_id_, query_norm_);
      begin(level == Level::kByHighBytes ? copied_scores_->high_margin() : copied_scores_->refined_margin());
      copied_scores_->score(candidates_.ids(), count, scores_.data());
      if (level == Level::kByAllBytes) copied_scores_->refine(candidates_.ids(), count, scores_.data());
    }
    forbid_edges(subset_.request.selection, query_id_, candidates_.ids(), count, scores_.data());
    block_.offer_approximate(0, candidates_.ids(), subset_.document_norms, candidates_.rows(), count, scores_.data(),
                             level == Level::kByHighBytes ? &*copied_scores_ : nullptr);
    return block_.finish_row(0, candidates_.ids(), row);
  }

  // Writes the approximate cosines of the row and its candidates to scores_.
  void score_by_features() {
    const MatrixView &queries = by_features_.queries, &base = by_features_.base;
    const int64_t query = query_id_ * queries.row_stride_elements;
    const auto gather = [&](auto kernel, auto* query_elements, auto* base_elements) {
      kernel(query_elements + query, base_elements, base.row_stride_elements, base.dim, candidates_.ids(),
             candidates_.size(), scores_.data());
    };
    if (queries.dtype == DType::kBFloat16) {
      gather(kernels_.gather_bfloat16_dots, static_cast<const uint16_t*>(queries.data),
             static_cast<const uint16_t*>(base.data));
    } else {
      gather(kernels_.gather_dots, static_cast<const float*>(queries.data), static_cast<const float*>(base.data));
    }
    kernels_.finish_scores(subset_.request.selection.metric, query_norm_, candidates_.norms(), candidates_.size(),
                           scores_.data());
  }

  const GraphSubset& subset_;
  const KernelTable& kernels_;
  const Prefilter by_features_;
  PrefilterLadder ladder_;
  DrawnCandidates candidates_;
  TopKBlock block_;
  AlignedBuffer<float> scores_;
  std::optional<CopiedScores> copied_scores_;
  int64_t query_id_ = 0;
  float query_norm_ = 0.0f;
};

}  // namespace

int64_t per_row_draw_bytes(const ProximityGraphRequest& request) {
  return DrawnCandidates::bytes(request.num_candidates, request.num_rows - 1) + 4 * request.num_candidates +
         CopiedScores::bytes(request.features.dim);
}

void build_with_per_row_candidates(const GraphSubset& subset, const BlockPlan& plan, const PerRowPrefilters& prefilters,
                                   const Edges& edges, ThreadTeam& team) {
  constexpr int64_t kGrain = 64;
  const int64_t first_row = subset.request.first_group;
  std::vector<std::unique_ptr<RowWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_ranges(subset.request.num_groups, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<RowWorkspace>(subset, plan, prefilters, edges);
    for (int64_t i = begin; i < end && !worker.should_stop(); ++i) workspace->run(first_row + i, worker);
    worker.add_done(end - begin);
  });
}

}  // namespace bse

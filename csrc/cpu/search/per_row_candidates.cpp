#include "cpu/search/per_row_candidates.h"

#include <memory>

#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

// Chooses the prefilter of one thread. If the current one leaves more than a quarter of 64 rows undecided, the next one
// takes over. After the last one there is none. The choice affects only speed.
class PrefilterLadder {
 public:
  explicit PrefilterLadder(const std::vector<Prefilter>& prefilters) : prefilters_(prefilters) {}

  const Prefilter* current() const { return level_ < prefilters_.size() ? &prefilters_[level_] : nullptr; }

  void report(bool has_decided) {
    num_undecided_ += !has_decided;
    if (++num_reported_ < kNumWatched) return;
    if (4 * num_undecided_ > kNumWatched) ++level_;
    num_reported_ = num_undecided_ = 0;
  }

 private:
  static constexpr int kNumWatched = 64;

  const std::vector<Prefilter>& prefilters_;
  size_t level_ = 0;
  int num_reported_ = 0, num_undecided_ = 0;
};

// State of one thread.
class RowWorkspace {
 public:
  RowWorkspace(const GraphSubset& subset, const BlockPlan& plan, const std::vector<Prefilter>& prefilters,
               const Edges& edges)
      : subset_(subset),
        kernels_(kernel_table()),
        prefilters_(prefilters),
        candidates_(subset, subset.request.num_candidates, subset.request.num_rows - 1),
        block_(plan, subset.request.features, subset.request.documents, subset.request.selection, edges),
        scores_(prefilters.empty() ? 0 : subset.request.num_candidates) {}

  // Finishes one row of the subset.
  void run(int64_t row, Worker& worker) {
    candidates_.draw_own(row);
    if (const Prefilter* prefilter = prefilters_.current()) {
      const bool is_decided = select_edges(row, *prefilter);
      prefilters_.report(is_decided);
      if (is_decided) return;
    }
    begin(row, 0.0);
    const int64_t nothing_excluded = -1;
    if (!block_.offer(candidates_.ids(), candidates_.norms(), candidates_.size(), &nothing_excluded, worker)) return;
    block_.finish_row(0, candidates_.ids(), row);
  }

 private:
  void begin(int64_t row, double margin) {
    query_id_ = subset_.instance(row);
    query_norm_ = subset_.query_norms[row];
    block_.begin(&query_id_, &query_norm_, 1, margin);
  }

  // Selects the edges of a row by approximate scores. Returns false if these cannot decide which candidates are best.
  bool select_edges(int64_t row, const Prefilter& prefilter) {
    begin(row, prefilter.margin);
    dots(prefilter);
    const Selection& selection = subset_.request.selection;
    if (!prefilter.has_unit_rows) {
      kernels_.finish_scores(selection.metric, query_norm_, candidates_.norms(), candidates_.size(), scores_.data());
    }
    forbid_edges(selection, query_id_, candidates_.ids(), candidates_.size(), scores_.data());
    block_.offer_approximate(0, candidates_.ids(), candidates_.norms(), candidates_.size(), scores_.data());
    return block_.finish_row(0, candidates_.ids(), row);
  }

  // Writes the dot products of the row and its candidates to scores_.
  void dots(const Prefilter& prefilter) {
    const MatrixView &queries = prefilter.queries, &base = prefilter.base;
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
  }

  const GraphSubset& subset_;
  const KernelTable& kernels_;
  PrefilterLadder prefilters_;
  DrawnCandidates candidates_;
  TopKBlock block_;
  AlignedBuffer<float> scores_;
  int64_t query_id_ = 0;
  float query_norm_ = 0.0f;
};

}  // namespace

int64_t per_row_draw_bytes(const ProximityGraphRequest& request) {
  return DrawnCandidates::bytes(request.num_candidates, request.num_rows - 1) + 4 * request.num_candidates;
}

void build_with_per_row_candidates(const GraphSubset& subset, const BlockPlan& plan,
                                   const std::vector<Prefilter>& prefilters, const Edges& edges, ThreadTeam& team) {
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

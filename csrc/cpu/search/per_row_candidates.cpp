#include "cpu/search/per_row_candidates.h"

#include <memory>

#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

// Leaves a screen that seldom decides for the next one, and the last for none: one thread's choice, which only costs or
// saves time.
class ScreenLadder {
 public:
  explicit ScreenLadder(const std::vector<Screen>& screens) : screens_(screens) {}

  const Screen* current() const { return level_ < screens_.size() ? &screens_[level_] : nullptr; }

  void report(bool has_decided) {
    num_undecided_ += !has_decided;
    if (++num_reported_ < kNumWatched) return;
    if (4 * num_undecided_ > kNumWatched) ++level_;
    num_reported_ = num_undecided_ = 0;
  }

 private:
  static constexpr int kNumWatched = 64;

  const std::vector<Screen>& screens_;
  size_t level_ = 0;
  int num_reported_ = 0, num_undecided_ = 0;
};

// One thread's state.
class RowWorkspace {
 public:
  RowWorkspace(const GraphPool& pool, const BlockPlan& plan, const std::vector<Screen>& screens, const Links& links)
      : pool_(pool),
        kernels_(kernel_table()),
        screens_(screens),
        candidates_(pool, pool.request.num_candidates, pool.request.num_rows - 1),
        block_(plan, pool.request.features, pool.request.keys, pool.request.selection, links),
        scores_(screens.empty() ? 0 : pool.request.num_candidates) {}

  // A row of the pool.
  void run(int64_t row, Worker& worker) {
    candidates_.draw_own(row);
    if (const Screen* screen = screens_.current()) {
      const bool is_linked = link(row, *screen);
      screens_.report(is_linked);
      if (is_linked) return;
    }
    begin(row, 0.0);
    const int64_t nothing_excluded = -1;
    if (!block_.offer(candidates_.ids(), candidates_.terms(), candidates_.size(), &nothing_excluded, worker)) return;
    block_.finish_row(0, candidates_.ids(), row);
  }

 private:
  void begin(int64_t row, double margin) {
    query_id_ = pool_.instance(row);
    query_term_ = pool_.query_terms[row];
    block_.begin(&query_id_, &query_term_, 1, margin);
  }

  // False if that cannot tell which candidates are the best.
  bool link(int64_t row, const Screen& screen) {
    begin(row, screen.margin);
    dots(screen);
    const Selection& selection = pool_.request.selection;
    if (!screen.has_unit_rows) {
      kernels_.finish_scores(selection.metric, query_term_, candidates_.terms(), candidates_.size(), scores_.data());
    }
    forbid_links(selection, query_id_, candidates_.ids(), candidates_.size(), scores_.data());
    block_.offer_screened(0, candidates_.ids(), candidates_.terms(), candidates_.size(), scores_.data());
    return block_.finish_row(0, candidates_.ids(), row);
  }

  void dots(const Screen& screen) {
    const MatrixView &queries = screen.queries, &base = screen.base;
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

  const GraphPool& pool_;
  const KernelTable& kernels_;
  ScreenLadder screens_;
  DrawnCandidates candidates_;
  TopKBlock block_;
  AlignedBuffer<float> scores_;
  int64_t query_id_ = 0;
  float query_term_ = 0.0f;
};

}  // namespace

int64_t own_draw_bytes(const ProximityGraphRequest& request) {
  return DrawnCandidates::bytes(request.num_candidates, request.num_rows - 1) + 4 * request.num_candidates;
}

void build_by_own_draws(const GraphPool& pool, const BlockPlan& plan, const std::vector<Screen>& screens,
                        const Links& links, ThreadTeam& team) {
  constexpr int64_t kGrain = 64;
  std::vector<std::unique_ptr<RowWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_ranges(pool.request.num_rows, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<RowWorkspace>(pool, plan, screens, links);
    for (int64_t row = begin; row < end && !worker.should_stop(); ++row) workspace->run(row, worker);
    worker.add_done(end - begin);
  });
}

}  // namespace bse

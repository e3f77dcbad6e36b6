// Exact neighbors on the GPU, by candidate lists with running limits. Where these do not pay, edges are selected from a
// score matrix of as many queries at a time as scratch holds.

#include <algorithm>
#include <optional>

#include "cuda/matrix_topk/matrix_topk.h"
#include "cuda/search/search.h"
#include "cuda/streaming_topk/streaming_topk.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

namespace {

constexpr size_t kKnnScoreBytes = size_t{512} << 20;  // of a score matrix if memory allows: tiles enough for a GPU

struct Layout {
  Layout(const KnnRequest& request, const KnnPlan& plan, void* buffer)
      : scratch(buffer), has_same_norms(!request.separate_base && request.query_ids == request.base_ids) {
    base_norms = scratch.take<float>(request.num_base);
    query_norms = has_same_norms ? base_norms : scratch.take<float>(request.num_queries);
    unbounded = scratch.take<uint32_t>(1);
    if (plan.is_streaming) {
      lists.emplace(request, plan.queries_at_once, plan.list_bytes, scratch);
    } else {
      scores = scratch.take<float>(plan.queries_at_once * request.num_base);
      selector.emplace(request.selection, false, plan.queries_at_once, scratch);
    }
  }

  Scratch scratch;
  bool has_same_norms;
  float *base_norms, *query_norms, *scores = nullptr;
  uint32_t* unbounded;
  std::optional<ListSearch> lists;
  std::optional<Selector> selector;
};

size_t bytes_needed(const KnnRequest& request, const KnnPlan& plan) {
  return Layout(request, plan, nullptr).scratch.num_bytes();
}

// Plans candidate lists. Returns false if not even one query fits.
bool plan_lists(const KnnRequest& request, size_t max_bytes, KnnPlan* plan) {
  plan->is_streaming = true;
  plan->list_bytes = std::min(tuning::kListBytes, max_bytes);
  plan->queries_at_once = ListSearch::rows_at_once(request, plan->list_bytes);
  while ((plan->scratch_bytes = bytes_needed(request, *plan)) > max_bytes) {
    if (plan->queries_at_once == 1) return false;
    plan->queries_at_once = (plan->queries_at_once + 1) / 2;
    plan->list_bytes /= 2;
  }
  return true;
}

}  // namespace

KnnPlan plan_knn(const KnnRequest& request, size_t max_bytes, KnnMethod method) {
  KnnPlan plan;
  const bool wants_lists = method == KnnMethod::kAny ? lists_pay(request) : method == KnnMethod::kStreaming;
  if (wants_lists && plan_lists(request, max_bytes, &plan)) return plan;
  plan = KnnPlan{};
  const auto most = static_cast<int64_t>(kKnnScoreBytes / (sizeof(float) * static_cast<size_t>(request.num_base)));
  plan.queries_at_once = std::min(request.num_queries, std::max<int64_t>(1, most));
  while (plan.queries_at_once > 1 && bytes_needed(request, plan) > max_bytes) {
    plan.queries_at_once = (plan.queries_at_once + 1) / 2;
  }
  plan.scratch_bytes = bytes_needed(request, plan);
  require_scratch(plan.scratch_bytes, max_bytes);
  return plan;
}

void knn(const KnnRequest& request, const KnnPlan& plan, const Edges& edges, void* scratch, uint64_t* status,
         void* raw_stream) {
  const auto stream = static_cast<device::Stream>(raw_stream);
  const Layout layout(request, plan, scratch);
  const Metric metric = request.selection.metric;
  // If base and queries are the same rows, a bad row is reported as one of the features.
  const auto base_kind = layout.has_same_norms ? StatusKind::kBadFeature : StatusKind::kBadDocument;
  uint32_t* const unbounded = plan.is_streaming && can_prefilter_lists(request) ? layout.unbounded : nullptr;
  if (unbounded != nullptr) device::fill_async(unbounded, 0, sizeof *unbounded, stream);
  launch_row_norms(request.base, request.base_ids, request.num_base, metric, layout.base_norms, base_kind, status,
                   unbounded, stream);
  if (!layout.has_same_norms) {
    launch_row_norms(request.queries, request.query_ids, request.num_queries, metric, layout.query_norms,
                     StatusKind::kBadFeature, status, unbounded, stream);
  }
  if (layout.lists) layout.lists->launch_preparation(request, stream);

  ScoreBlock block{};
  block.queries = request.queries;
  block.base = request.base;
  block.query_norms = layout.query_norms;
  block.base_norms = layout.base_norms;
  block.query_ids = request.query_ids;
  block.base_ids = request.base_ids;
  block.num_candidates = request.num_base;
  block.exclude_self = request.exclude_self;
  block.selection = request.selection;
  block.unbounded = unbounded;
  for (int64_t first = 0; first < request.num_queries; first += plan.queries_at_once) {
    block.first_row = first;
    block.num_rows = std::min(plan.queries_at_once, request.num_queries - first);
    block.rows_per_group = block.num_rows;
    if (layout.lists) {
      layout.lists->launch(block, edges, stream);
    } else {
      launch_scores(block, layout.scores, stream);
      layout.selector->launch(block, layout.scores, edges, stream);
    }
  }
}

}  // namespace bse::cuda

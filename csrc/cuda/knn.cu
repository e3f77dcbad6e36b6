// Exact neighbours on the GPU: all scores of so many queries at a time as scratch holds, then selection.

#include <algorithm>

#include "link_launch.h"

namespace bse::cuda {

namespace {

constexpr size_t kSlabBytes = size_t{512} << 20;  // scores at a time, while memory allows: enough tiles for a GPU

struct Layout {
  Layout(const KnnRequest& request, int64_t queries_at_once, void* buffer)
      : scratch(buffer), has_same_terms(!request.separate_base && request.query_ids == request.base_ids) {
    base_terms = scratch.take<float>(request.num_base);
    query_terms = has_same_terms ? base_terms : scratch.take<float>(request.num_queries);
    slab = scratch.take<float>(queries_at_once * request.num_base);
  }

  Scratch scratch;
  bool has_same_terms;
  float *base_terms, *query_terms, *slab;
};

size_t bytes_needed(const KnnRequest& request, int64_t queries_at_once) {
  Layout layout(request, queries_at_once, nullptr);
  const Selector selector(request.selection, false, queries_at_once, layout.scratch);
  return layout.scratch.num_bytes();
}

}  // namespace

KnnPlan plan_knn(const KnnRequest& request, size_t max_bytes) {
  const auto most = static_cast<int64_t>(kSlabBytes / (sizeof(float) * static_cast<size_t>(request.num_base)));
  KnnPlan plan;
  plan.queries_at_once = std::min(request.num_queries, std::max<int64_t>(1, most));
  while (plan.queries_at_once > 1 && bytes_needed(request, plan.queries_at_once) > max_bytes) {
    plan.queries_at_once = (plan.queries_at_once + 1) / 2;
  }
  plan.scratch_bytes = bytes_needed(request, plan.queries_at_once);
  require_scratch(plan.scratch_bytes, max_bytes);
  return plan;
}

void knn(const KnnRequest& request, const KnnPlan& plan, const Links& links, void* scratch, uint64_t* status,
         void* raw_stream) {
  const auto stream = static_cast<device::Stream>(raw_stream);
  Layout layout(request, plan.queries_at_once, scratch);
  const Selector selector(request.selection, false, plan.queries_at_once, layout.scratch);
  const Metric metric = request.selection.metric;
  // Where the base is the queries, what is wrong is theirs.
  const auto base_kind = layout.has_same_terms ? StatusKind::kFeatureNotFinite : StatusKind::kKeyNotFinite;
  launch_row_terms(request.base, request.base_ids, request.num_base, metric, layout.base_terms, base_kind, status,
                   nullptr, stream);
  if (!layout.has_same_terms) {
    launch_row_terms(request.queries, request.query_ids, request.num_queries, metric, layout.query_terms,
                     StatusKind::kFeatureNotFinite, status, nullptr, stream);
  }

  ScoreBlock block{};
  block.queries = request.queries;
  block.base = request.base;
  block.query_terms = layout.query_terms;
  block.base_terms = layout.base_terms;
  block.query_ids = request.query_ids;
  block.base_ids = request.base_ids;
  block.num_candidates = request.num_base;
  block.exclude_self = request.exclude_self;
  block.selection = request.selection;
  for (int64_t first = 0; first < request.num_queries; first += plan.queries_at_once) {
    block.first_row = first;
    block.num_rows = std::min(plan.queries_at_once, request.num_queries - first);
    block.rows_per_group = block.num_rows;
    launch_scores(block, layout.slab, stream);
    selector.launch(block, layout.slab, links, stream);
  }
}

}  // namespace bse::cuda

// Exact k nearest neighbours on the CPU: blocks of queries against all of the base, streamed through top-k buffers.

#include <memory>
#include <optional>

#include "cpu/search/knn_symmetric.h"
#include "cpu/search/search.h"
#include "cpu/topk/row_norms.h"
#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

struct QueryWorkspace {
  static constexpr int64_t kBytes = 28 * BlockPlan::kMostRows;  // beside the block

  QueryWorkspace(const KnnRequest& request, const BlockPlan& plan, const Links& links)
      : block(plan, request.queries, request.base, request.selection, links),
        rows(static_cast<size_t>(plan.row_block)),
        query_ids(rows.size()),
        query_terms(rows.size()),
        excluded(rows.size(), -1) {}

  TopKBlock block;
  std::vector<int64_t> rows;  // of the result
  std::vector<int64_t> query_ids;
  std::vector<float> query_terms;
  std::vector<int64_t> excluded;  // place of each query in the base, or -1
};

// Each query against all of the base.      rows: [count] rows of the result, or null: the first count
void search(const KnnRequest& request, const BlockPlan& plan, const int64_t* rows, int64_t count,
            const float* query_terms, const int64_t* base_ids, const float* base_terms, const Links& links,
            ThreadTeam& team) {
  const int64_t num_base = request.num_base;
  std::vector<std::unique_ptr<QueryWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_ranges(count, plan.row_block, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<QueryWorkspace>(request, plan, links);
    for (int64_t i = 0; i < end - begin; ++i) {
      const int64_t row = rows != nullptr ? rows[begin + i] : begin + i;
      const int64_t id = request.query_ids != nullptr ? request.query_ids[row] : row;
      workspace->rows[i] = row;
      workspace->query_ids[i] = id;
      workspace->query_terms[i] = query_terms[row];
      if (request.exclude_self) {
        workspace->excluded[i] = std::lower_bound(base_ids, base_ids + num_base, id) - base_ids;
      }
    }
    TopKBlock& block = workspace->block;
    block.begin(workspace->query_ids.data(), workspace->query_terms.data(), end - begin);
    if (!block.offer(base_ids, base_terms, num_base, workspace->excluded.data(), worker)) return;
    for (int64_t i = 0; i < end - begin; ++i) block.finish_row(i, base_ids, workspace->rows[i]);
    worker.add_done(end - begin);
  });
}

}  // namespace

void knn(const KnnRequest& request, const Links& links, Monitor& monitor) {
  const int64_t num_queries = request.num_queries, num_base = request.num_base;
  const bool same_terms = !request.separate_base && request.query_ids == request.base_ids;
  const int64_t num_selected = request.selection.num_neighbors + request.selection.range_min;
  const bool by_pairs = same_terms && request.exclude_self && can_search_by_pairs(num_selected, num_base);
  const int64_t mirror_bytes =
      by_pairs ? MirrorScreen::bytes(request.base, request.base, true, num_base, request.max_memory_bytes) : 0;
  const int64_t fixed_bytes = mirror_bytes + 12 * num_base + (same_terms ? 0 : 4 * num_queries);
  // Small sets of queries are spread over all threads.
  const int64_t rows_per_thread = (num_queries + request.num_threads - 1) / request.num_threads;
  const BlockPlan plan =
      BlockPlan::fit(request.selection, rows_per_thread, num_base, request.queries.dim, request.num_threads,
                     QueryWorkspace::kBytes, fixed_bytes, request.max_memory_bytes - fixed_bytes);
  links.prefer_huge_pages(num_queries, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> base_terms(num_base), other_terms(same_terms ? 0 : num_queries);
  const char* base_name = request.exclude_self ? (request.separate_base ? "keys" : "features") : "base";
  const char* query_name = request.exclude_self ? "features" : "queries";
  compute_row_terms(team, request.base, base_name, request.base_ids, num_base, request.selection.metric,
                    base_terms.data());
  if (!same_terms) {
    compute_row_terms(team, request.queries, query_name, request.query_ids, num_queries, request.selection.metric,
                      other_terms.data());
  }
  const float* query_terms = same_terms ? base_terms.data() : other_terms.data();

  AlignedBuffer<int64_t> base_ids(num_base);
  team.for_ranges(num_base, 1 << 16, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t j = begin; j < end; ++j) base_ids[j] = request.base_ids != nullptr ? request.base_ids[j] : j;
  });

  const int64_t budget_bytes = std::min(request.max_memory_bytes - fixed_bytes, kMostBytesByPairs);
  if (by_pairs && knn_by_pairs_bytes(plan, num_base) <= budget_bytes) {
    std::optional<MirrorScreen> mirror;
    if (mirror_bytes > 0 && screening_is_bounded(request.base, query_terms, request.base, base_terms.data(),
                                                 base_ids.data(), num_base, request.selection)) {
      mirror.emplace(request.base, query_terms, request.base, base_terms.data(), base_ids.data(), num_base, team);
    }
    const std::vector<int64_t> rest = knn_by_pairs(request, plan, mirror ? mirror->screen() : Screen{}, base_ids.data(),
                                                   base_terms.data(), links, team);
    search(request, plan, rest.data(), static_cast<int64_t>(rest.size()), query_terms, base_ids.data(),
           base_terms.data(), links, team);
  } else {
    search(request, plan, nullptr, num_queries, query_terms, base_ids.data(), base_terms.data(), links, team);
  }
}

}  // namespace bse

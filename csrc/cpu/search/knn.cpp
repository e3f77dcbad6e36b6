// Exact k nearest neighbors on the CPU. Blocks of queries are scored against the whole base, and the scores stream
// through top-k buffers.

#include <memory>
#include <optional>

#include "cpu/search/knn_symmetric.h"
#include "cpu/search/search.h"
#include "cpu/topk/fixed_point_copy.h"
#include "cpu/topk/row_norms.h"
#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

struct QueryWorkspace {
  static constexpr int64_t kBytes = 28 * BlockPlan::kMaxRows;  // scratch beside the block

  QueryWorkspace(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter, const Edges& edges)
      : block(plan, request.queries, request.base, request.selection, edges, prefilter),
        rows(static_cast<size_t>(plan.row_block)),
        query_ids(rows.size()),
        query_norms(rows.size()),
        excluded(rows.size(), -1) {}

  TopKBlock block;
  std::vector<int64_t> rows;  // rows of the result
  std::vector<int64_t> query_ids;
  std::vector<float> query_norms;
  std::vector<int64_t> excluded;  // index in the base of each query's own id, or -1
};

// Searches each query in the whole base. prefilter: may be off; rows: [count] rows of the result, or null for the first
// count
void search(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter, const int64_t* rows,
            int64_t count, const float* query_norms, const int64_t* base_ids, const float* base_norms,
            const Edges& edges, ThreadTeam& team) {
  const int64_t num_base = request.num_base;
  std::vector<std::unique_ptr<QueryWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_ranges(count, plan.row_block, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<QueryWorkspace>(request, plan, prefilter, edges);
    const auto set_row = [&](int64_t i, int64_t row) {
      const int64_t id = request.query_ids != nullptr ? request.query_ids[row] : row;
      workspace->rows[i] = row;
      workspace->query_ids[i] = id;
      workspace->query_norms[i] = query_norms[row];
      if (request.exclude_self) {
        workspace->excluded[i] = std::lower_bound(base_ids, base_ids + num_base, id) - base_ids;
      }
    };
    for (int64_t i = 0; i < end - begin; ++i) set_row(i, rows != nullptr ? rows[begin + i] : begin + i);
    TopKBlock& block = workspace->block;
    int64_t num_left = end - begin;
    double margin = block.prefilter_pays() ? prefilter.margin : 0.0;
    for (; num_left > 0; margin = 0.0) {  // exact scores for what is undecided
      block.begin(workspace->query_ids.data(), workspace->query_norms.data(), num_left, margin);
      if (!block.offer(base_ids, base_norms, num_base, workspace->excluded.data(), worker)) return;
      int64_t num_undecided = 0;
      for (int64_t i = 0; i < num_left; ++i) {
        if (worker.should_stop()) return;
        const int64_t row = workspace->rows[i];
        if (!block.finish_row(i, base_ids, row)) set_row(num_undecided++, row);
      }
      num_left = num_undecided;
    }
    worker.add_done(end - begin);
  });
}

}  // namespace

void knn(const KnnRequest& request, const Edges& edges, Monitor& monitor) {
  const int64_t num_queries = request.num_queries, num_base = request.num_base;
  const bool same_norms = !request.separate_base && request.query_ids == request.base_ids;
  const int64_t num_selected = request.selection.num_neighbors + request.selection.range_min;
  const bool is_symmetric = same_norms && request.exclude_self && can_search_symmetric(num_selected, num_base);
  const bool has_one_copy = !request.separate_base && (same_norms || request.base_ids == nullptr);
  const double num_scores =
      (is_symmetric ? 0.5 : 1.0) * static_cast<double>(num_queries) * static_cast<double>(num_base);
  int64_t copy_bytes = FixedPointPrefilter::bytes(request.queries, num_queries, request.base, num_base, has_one_copy,
                                                  num_base, num_scores, request.selection, request.max_memory_bytes);
  // If there are few queries, smaller row blocks spread them over all threads.
  const int64_t rows_per_thread = (num_queries + request.num_threads - 1) / request.num_threads;
  const auto budget_beside = [&](int64_t bytes_of_copies) {
    return request.max_memory_bytes - bytes_of_copies - 12 * num_base - (same_norms ? 0 : 4 * num_queries);
  };
  const auto fit = [&](int64_t bytes_of_copies) {
    const int64_t budget_bytes = budget_beside(bytes_of_copies);
    return BlockPlan::fit(num_selected, rows_per_thread, num_base, request.queries.dim, request.num_threads,
                          QueryWorkspace::kBytes, request.max_memory_bytes - budget_bytes, budget_bytes);
  };
  const BlockPlan plan = fit_beside_copies(fit, &copy_bytes);
  prefer_huge_pages(edges, num_queries, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> base_norms(num_base), other_norms(same_norms ? 0 : num_queries);
  const char* base_name = request.exclude_self ? (request.separate_base ? "documents" : "features") : "base";
  const char* query_name = request.exclude_self ? "features" : "queries";
  compute_row_norms(team, request.base, base_name, request.base_ids, num_base, request.selection.metric,
                    base_norms.data());
  if (!same_norms) {
    compute_row_norms(team, request.queries, query_name, request.query_ids, num_queries, request.selection.metric,
                      other_norms.data());
  }
  const float* query_norms = same_norms ? base_norms.data() : other_norms.data();

  AlignedBuffer<int64_t> base_ids(num_base);
  team.for_ranges(num_base, 1 << 16, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t j = begin; j < end; ++j) base_ids[j] = request.base_ids != nullptr ? request.base_ids[j] : j;
  });

  std::optional<FixedPointPrefilter> copies;
  if (copy_bytes > 0 && prefilter_is_bounded(base_norms.data(), num_base, request.base.dim, request.selection) &&
      (has_one_copy || prefilter_is_bounded(query_norms, num_queries, request.queries.dim, request.selection))) {
    if (has_one_copy) {
      copies.emplace(request.base, base_norms.data(), base_ids.data(), num_base, team);
    } else {
      copies.emplace(request.queries, query_norms, request.query_ids, num_queries, request.base, base_norms.data(),
                     base_ids.data(), num_base, team);
    }
  }
  const Prefilter prefilter = copies ? copies->prefilter() : Prefilter{};
  const int64_t budget_bytes = std::min(budget_beside(copy_bytes), kMaxSymmetricBytes);
  if (is_symmetric && knn_symmetric_bytes(plan, num_base, request.base.dim) <= budget_bytes) {
    const std::vector<int64_t> rest =
        knn_symmetric(request, plan, prefilter, base_ids.data(), base_norms.data(), edges, team);
    search(request, plan, Prefilter{}, rest.data(), static_cast<int64_t>(rest.size()), query_norms, base_ids.data(),
           base_norms.data(), edges, team);
  } else {
    search(request, plan, prefilter, nullptr, num_queries, query_norms, base_ids.data(), base_norms.data(), edges,
           team);
  }
}

}  // namespace bse

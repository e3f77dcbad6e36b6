// The best of given candidates on the CPU: each query has a list of its own, such as an approximate search finds.
//
// A list is sorted, so that ties go to the lower id, and an id that it repeats counts once. Then it takes the path of
// exact kNN with a single query and the list as the base. Gathering the candidates limits the speed.

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/search/search.h"
#include "cpu/topk/row_norms.h"
#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

// State of one thread.
class ListWorkspace {
 public:
  ListWorkspace(const KnnOfListsRequest& request, const BlockPlan& plan, const float* base_norms, const Edges& edges)
      : request_(request),
        base_norms_(base_norms),
        block_(plan, request.queries, request.base, request.selection, edges),
        places_(static_cast<size_t>(request.list_size)),
        ids_(places_.size()),
        norms_(places_.size()) {}

  static int64_t bytes(const KnnOfListsRequest& request) { return 16 * request.list_size; }

  // Finishes one query.
  void run(int64_t row, float query_norm, Worker& worker) {
    const int64_t query_id = request_.query_ids[row];
    const int64_t size = read(request_.lists + row * request_.list_size);
    const int64_t* const ids = ids_.data();
    const int64_t* const own = std::lower_bound(ids, ids + size, query_id);
    const int64_t excluded = own != ids + size && *own == query_id ? own - ids : -1;
    block_.begin(&query_id, &query_norm, 1);
    if (size > 0 && !block_.offer(ids_.data(), norms_.data(), size, &excluded, worker)) return;
    block_.finish_row(0, ids_.data(), row);
  }

 private:
  // Writes the distinct ids of a list to ids_, ascending, and their norms to norms_. Returns their number.
  int64_t read(const int32_t* list) {
    const int64_t num_base = request_.num_base;
    const auto end = std::copy_if(list, list + request_.list_size, places_.begin(), [&](int32_t place) {
      if (place < -1 || place >= num_base) {
        throw std::invalid_argument("lists: expected integers in [-1, " + std::to_string(num_base) + "), got " +
                                    std::to_string(place));
      }
      return place >= 0;
    });
    std::sort(places_.begin(), end);
    const auto size = static_cast<size_t>(std::unique(places_.begin(), end) - places_.begin());
    for (size_t c = 0; c < size; ++c) {
      const int32_t place = places_[c];
      ids_[c] = request_.base_ids != nullptr ? request_.base_ids[place] : place;
      norms_[c] = base_norms_[place];
    }
    return static_cast<int64_t>(size);
  }

  const KnnOfListsRequest& request_;
  const float* base_norms_;
  TopKBlock block_;
  std::vector<int32_t> places_;
  std::vector<int64_t> ids_;
  std::vector<float> norms_;
};

}  // namespace

void knn_of_lists(const KnnOfListsRequest& request, const Edges& edges, Monitor& monitor) {
  constexpr int64_t kGrain = 64;
  const int64_t num_queries = request.num_queries, num_base = request.num_base;
  const Metric metric = request.selection.metric;
  const int64_t fixed_bytes = 4 * (num_base + num_queries);
  const BlockPlan plan = BlockPlan::fit(
      request.selection.num_neighbors + request.selection.range_min, 1, request.list_size, request.base.dim,
      request.num_threads, ListWorkspace::bytes(request), fixed_bytes, request.max_memory_bytes - fixed_bytes);
  ThreadTeam team(plan.num_threads, monitor);
  AlignedBuffer<float> base_norms(num_base), query_norms(num_queries);
  compute_row_norms(team, request.base, request.separate_base ? "documents" : "features", request.base_ids, num_base,
                    metric, base_norms.data());
  compute_row_norms(team, request.queries, "features", request.query_ids, num_queries, metric, query_norms.data());

  std::vector<std::unique_ptr<ListWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_ranges(num_queries, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<ListWorkspace>(request, plan, base_norms.data(), edges);
    for (int64_t row = begin; row < end && !worker.should_stop(); ++row) {
      workspace->run(row, query_norms[row], worker);
    }
    worker.add_done(end - begin);
  });
}

}  // namespace bse

// Proximity graph on the CPU: memory, norms and prefilters of its two builders, for grouped and for per-row candidates.

#include <optional>

#include "cpu/search/grouped_candidates.h"
#include "cpu/search/per_row_candidates.h"
#include "cpu/topk/prefilter.h"
#include "cpu/topk/row_norms.h"

namespace bse {

void proximity_graph(const ProximityGraphRequest& request, const Edges& edges, Monitor& monitor) {
  const int64_t num_rows = request.num_rows;
  const bool is_shared = request.candidate_group_size > 1;
  const MatrixView &features = request.features, &documents = request.documents;
  const int64_t num_scores = request.num_groups * request.num_candidates;
  const int64_t copy_bytes =
      is_shared ? 0 : ByteCopy::wanted_bytes(documents, num_rows, num_scores, request.max_memory_bytes);
  const int64_t order_bytes = is_shared ? 4 * (request.end_position() - request.first_position()) : 0;
  const int64_t fixed_bytes = copy_bytes + order_bytes + num_rows * (request.two_towers ? 8 : 4);
  const BlockPlan plan =
      BlockPlan::fit(request.selection, request.rows_per_group(), request.num_candidates + 1, features.dim,
                     request.num_threads, is_shared ? grouped_draw_bytes(request) : per_row_draw_bytes(request),
                     fixed_bytes, request.max_memory_bytes - fixed_bytes);
  prefer_huge_pages(edges, num_rows, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> query_norms(num_rows), other_norms(request.two_towers ? num_rows : 0);
  compute_row_norms(team, features, "features", request.rows, num_rows, request.selection.metric, query_norms.data());
  if (request.two_towers) {
    compute_row_norms(team, documents, "documents", request.rows, num_rows, request.selection.metric,
                      other_norms.data());
  }
  const GraphSubset subset{request, query_norms.data(), request.two_towers ? other_norms.data() : query_norms.data()};
  const bool can_prefilter = prefilter_is_bounded(features, subset.query_norms, documents, subset.document_norms,
                                                  request.rows, num_rows, request.selection);
  if (is_shared) {
    // If exact scores are wanted, rescoring all neighbors would cost what the prefilter saves.
    const bool wants_scores = request.selection.sort || edges.scores != nullptr;
    const bool prefilters = can_prefilter && !wants_scores && can_prefilter_blocks(features, documents);
    build_with_grouped_candidates(subset, plan, prefilters ? prefilter_by_features(features, documents).margin : 0.0,
                                  edges, team);
  } else {
    PerRowPrefilters prefilters;
    std::optional<ByteCopy> copy;
    if (can_prefilter && copy_bytes > 0) {
      prefilters.copy = &copy.emplace(documents, request.rows, subset.document_norms, num_rows, team);
    }
    if (can_prefilter && can_prefilter_gathered(features, documents)) {
      prefilters.by_features = prefilter_by_features(features, documents);
    }
    build_with_per_row_candidates(subset, plan, prefilters, edges, team);
  }
}

}  // namespace bse

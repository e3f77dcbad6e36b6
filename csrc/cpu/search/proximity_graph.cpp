// Proximity graph on the CPU: memory, norms and prefilters of its two builders, for grouped and for per-row candidates.

#include <optional>

#include "cpu/runtime/huge_pages.h"
#include "cpu/search/grouped_candidates.h"
#include "cpu/search/per_row_candidates.h"
#include "cpu/topk/fixed_point_copy.h"
#include "cpu/topk/prefilter.h"
#include "cpu/topk/row_norms.h"

namespace bse {

namespace {

// Returns the bytes of the copies that prefilter, or 0 if there are none.
int64_t copies_bytes(const ProximityGraphRequest& request, bool can_use_features, bool wants_scores) {
  const MatrixView &features = request.features, &documents = request.documents;
  const double num_scores = static_cast<double>(request.end_position() - request.first_position()) *
                            static_cast<double>(request.num_candidates);
  if (request.candidate_group_size == 1) {
    return ByteCopy::wanted_bytes(documents, request.num_rows, num_scores, request.selection, request.max_memory_bytes);
  }
  if (wants_scores || can_use_features) return 0;
  return FixedPointPrefilter::bytes(features, request.num_rows, documents, request.num_rows, !request.two_towers,
                                    request.num_candidates, num_scores, request.selection, request.max_memory_bytes);
}

}  // namespace

void proximity_graph(const ProximityGraphRequest& request, const Edges& edges, Monitor& monitor) {
  const int64_t num_rows = request.num_rows;
  const bool is_shared = request.candidate_group_size > 1;
  const MatrixView &features = request.features, &documents = request.documents;
  // If exact scores are wanted, rescoring all neighbors would cost what a prefilter of groups saves.
  const bool wants_scores = request.selection.sort || edges.scores != nullptr;
  const bool can_use_features = is_shared ? !wants_scores && can_prefilter_blocks(features, documents)
                                          : can_prefilter_gathered(features, documents);
  int64_t copy_bytes = copies_bytes(request, can_use_features, wants_scores);
  const int64_t order_bytes = is_shared ? 4 * (request.end_position() - request.first_position()) : 0;
  const int64_t num_selected = request.selection.num_neighbors + request.selection.range_min;
  const auto fit = [&](int64_t bytes_of_copies) {
    // Many candidates are within the wide margin of scores by the high bytes.
    const int64_t num_kept = !is_shared && bytes_of_copies > 0 ? 4 * num_selected : num_selected;
    const int64_t fixed_bytes = bytes_of_copies + order_bytes + num_rows * (request.two_towers ? 8 : 4);
    return BlockPlan::fit(num_kept, request.rows_per_group(), request.num_candidates + 1, features.dim,
                          request.num_threads, is_shared ? grouped_draw_bytes(request) : per_row_draw_bytes(request),
                          fixed_bytes, request.max_memory_bytes - fixed_bytes);
  };
  const BlockPlan plan = fit_beside_copies(fit, &copy_bytes);
  prefer_huge_pages(edges, num_rows, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> query_norms(num_rows), other_norms(request.two_towers ? num_rows : 0);
  compute_row_norms(team, features, "features", request.rows, num_rows, request.selection.metric, query_norms.data());
  if (request.two_towers) {
    compute_row_norms(team, documents, "documents", request.rows, num_rows, request.selection.metric,
                      other_norms.data());
  }
  const GraphSubset subset{request, query_norms.data(), request.two_towers ? other_norms.data() : query_norms.data()};
  const bool can_prefilter =
      prefilter_is_bounded(subset.query_norms, num_rows, features.dim, request.selection) &&
      (!request.two_towers || prefilter_is_bounded(subset.document_norms, num_rows, features.dim, request.selection));
  if (is_shared) {
    std::optional<FixedPointPrefilter> copies;
    Prefilter prefilter;
    if (can_prefilter && can_use_features) {
      prefilter = prefilter_by_features(features, documents);
    } else if (can_prefilter && copy_bytes > 0) {
      if (request.two_towers) {
        copies.emplace(features, subset.query_norms, request.rows, num_rows, documents, subset.document_norms,
                       request.rows, num_rows, team);
      } else {
        copies.emplace(features, subset.query_norms, request.rows, num_rows, team);
      }
      prefilter = copies->prefilter();
    }
    build_with_grouped_candidates(subset, plan, prefilter, edges, team);
  } else {
    PerRowPrefilters prefilters;
    std::optional<ByteCopy> copy;
    if (can_prefilter && copy_bytes > 0) {
      prefilters.copy = &copy.emplace(documents, request.rows, subset.document_norms, num_rows, team);
    }
    if (can_prefilter && can_use_features) {
      prefilters.by_features = prefilter_by_features(features, documents);
    }
    build_with_per_row_candidates(subset, plan, prefilters, edges, team);
  }
}

}  // namespace bse

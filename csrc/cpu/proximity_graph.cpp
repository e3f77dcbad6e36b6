// Proximity graph on the CPU: what its two builders, by shared draws and by own draws, have in common.

#include "own_draws.h"
#include "row_terms.h"
#include "screening.h"
#include "shared_draws.h"

namespace bse {

void proximity_graph(const ProximityGraphRequest& request, const Links& links, Monitor& monitor) {
  const int64_t num_rows = request.num_rows;
  const bool is_shared = request.rows_per_draw > 1;
  const int64_t fixed_bytes = num_rows * ((is_shared ? 4 : 0) + (request.two_towers ? 8 : 4));
  const BlockPlan plan = BlockPlan::fit(request.selection, std::min(request.rows_per_draw, num_rows),
                                        request.num_candidates + 1, request.features.dim, request.num_threads,
                                        is_shared ? shared_draw_bytes(request) : own_draw_bytes(request), fixed_bytes,
                                        request.max_memory_bytes - fixed_bytes);
  links.prefer_huge_pages(num_rows, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> query_terms(num_rows), other_terms(request.two_towers ? num_rows : 0);
  compute_row_terms(team, request.features, "features", request.rows, num_rows, request.selection.metric,
                    query_terms.data());
  if (request.two_towers) {
    compute_row_terms(team, request.keys, "keys", request.rows, num_rows, request.selection.metric, other_terms.data());
  }
  const GraphPool pool{request, query_terms.data(), request.two_towers ? other_terms.data() : query_terms.data()};
  // Where a row shares its draw, scoring its neighbours once more would cost what screening saves.
  const bool wants_scores = request.selection.sort || links.scores != nullptr;
  const bool can_screen = is_shared ? !wants_scores && can_screen_blocks(request.features, request.keys)
                                    : can_screen_gathered(request.features, request.keys);
  const double margin = can_screen ? screening_margin(request.features, pool.query_terms, request.keys, pool.key_terms,
                                                      request.rows, num_rows, request.selection)
                                   : 0.0;
  if (is_shared) {
    build_by_shared_draws(pool, plan, margin, links, team);
  } else {
    build_by_own_draws(pool, plan, margin, links, team);
  }
}

}  // namespace bse

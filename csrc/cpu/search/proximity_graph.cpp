// Proximity graph on the CPU: what its two builders, by shared draws and by own draws, have in common.

#include <optional>

#include "cpu/search/grouped_candidates.h"
#include "cpu/search/per_row_candidates.h"
#include "cpu/topk/prefilter.h"
#include "cpu/topk/row_norms.h"

namespace bse {

void proximity_graph(const ProximityGraphRequest& request, const Links& links, Monitor& monitor) {
  const int64_t num_rows = request.num_rows;
  const bool is_shared = request.rows_per_draw > 1;
  const MatrixView &features = request.features, &keys = request.keys;
  // A mirror is no closer to bfloat16 rows than they are, and takes more from a shared draw than it gives.
  const bool wants_mirror = !is_shared && !(features.dtype == DType::kBFloat16 && keys.dtype == DType::kBFloat16);
  const int64_t mirror_bytes =
      wants_mirror ? MirrorScreen::bytes(features, keys, !request.two_towers, num_rows, request.max_memory_bytes) : 0;
  const int64_t fixed_bytes = mirror_bytes + num_rows * ((is_shared ? 4 : 0) + (request.two_towers ? 8 : 4));
  const BlockPlan plan = BlockPlan::fit(request.selection, std::min(request.rows_per_draw, num_rows),
                                        request.num_candidates + 1, features.dim, request.num_threads,
                                        is_shared ? shared_draw_bytes(request) : own_draw_bytes(request), fixed_bytes,
                                        request.max_memory_bytes - fixed_bytes);
  links.prefer_huge_pages(num_rows, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> query_terms(num_rows), other_terms(request.two_towers ? num_rows : 0);
  compute_row_terms(team, features, "features", request.rows, num_rows, request.selection.metric, query_terms.data());
  if (request.two_towers) {
    compute_row_terms(team, keys, "keys", request.rows, num_rows, request.selection.metric, other_terms.data());
  }
  const GraphPool pool{request, query_terms.data(), request.two_towers ? other_terms.data() : query_terms.data()};
  const bool can_screen =
      screening_is_bounded(features, pool.query_terms, keys, pool.key_terms, request.rows, num_rows, request.selection);
  if (is_shared) {
    // Scoring the neighbours once more would cost what screening saves.
    const bool wants_scores = request.selection.sort || links.scores != nullptr;
    const bool screens = can_screen && !wants_scores && can_screen_blocks(features, keys);
    build_by_shared_draws(pool, plan, screens ? screen_by_features(features, keys).margin : 0.0, links, team);
  } else {
    std::vector<Screen> screens;
    std::optional<MirrorScreen> mirror;
    if (can_screen && mirror_bytes > 0) {
      mirror.emplace(features, pool.query_terms, keys, pool.key_terms, request.rows, num_rows, team);
      screens.push_back(mirror->screen());
    }
    if (can_screen && can_screen_gathered(features, keys)) screens.push_back(screen_by_features(features, keys));
    build_by_own_draws(pool, plan, screens, links, team);
  }
}

}  // namespace bse

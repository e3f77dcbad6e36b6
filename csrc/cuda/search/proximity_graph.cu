// Proximity graphs on the GPU. Draws candidates of as many groups at a time as scratch holds, then scores and selects.
// One kernel does both where it fits (fused_topk_kernel.cuh). Else score matrices cover as many groups as stay in L2.

#include <algorithm>
#include <optional>

#include "common/prefilter_bound.h"
#include "cuda/candidates/candidate_draw_kernel.cuh"
#include "cuda/candidates/group_order_kernel.cuh"
#include "cuda/fused_topk/fused_topk.h"
#include "cuda/matrix_topk/matrix_topk.h"
#include "cuda/search/search.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

namespace {

constexpr int64_t kMaxGroups = 65535;  // of a launch that fills a score matrix (grid.z)

bool can_prefilter(const ProximityGraphRequest& request) {
  return request.candidate_group_size > 1 &&
         can_prefilter(request.features, request.documents, request.selection, request.has_scores);
}

// Layout of the scratch buffer, and the sizes that follow from the request.
struct Layout {
  Layout(const ProximityGraphRequest& request, const GraphPlan& plan, void* buffer) : scratch(buffer) {
    const bool is_shared = request.candidate_group_size > 1;
    rows_per_group = request.rows_per_group();
    num_columns = request.num_candidates + (is_shared ? 1 : 0);
    has_two_towers = request.two_towers;

    draw.num_drawn = static_cast<uint32_t>(num_columns);
    draw.n = static_cast<uint32_t>(request.num_rows - (is_shared ? 0 : 1));
    draw.seed = request.seed;
    draw.are_own = !is_shared;
    draw_blocks = std::min(plan.draws_at_once, int64_t{8} * device::num_multiprocessors());
    const bool is_sparse = draw_is_sparse(draw.num_drawn, draw.n);
    if (is_sparse) draw.num_slots = DistinctList::num_slots(draw.num_drawn, kWordsAtOnce);
    const size_t draw_bytes =
        is_sparse ? device::shared_bytes<uint64_t>(draw.num_slots) : device::shared_bytes<uint32_t>(draw.n);
    draw.is_shared = draw_bytes <= kSharedBytes;
    draw_shared_bytes = draw.is_shared ? draw_bytes : 0;
    if (is_sparse && !draw.is_shared) tables = scratch.take<uint64_t>(draw_blocks * draw.num_slots);
    draw.values_stride = is_sparse || draw.is_shared ? draw.num_drawn : draw.n;

    query_norms = scratch.take<float>(request.num_rows);
    base_norms = has_two_towers ? scratch.take<float>(request.num_rows) : query_norms;
    unbounded = scratch.take<uint32_t>(1);
    order = is_shared ? scratch.take<uint32_t>(request.num_rows) : nullptr;
    values = scratch.take<uint32_t>(plan.draws_at_once * draw.values_stride);
    if (plan.fused_rows == 0) scores = scratch.take<float>(plan.groups_at_once * rows_per_group * num_columns);
  }

  Scratch scratch;
  DrawPlan draw{};
  size_t draw_shared_bytes;
  int64_t rows_per_group, num_columns, draw_blocks;
  bool has_two_towers;
  uint64_t* tables = nullptr;
  float *query_norms, *base_norms;
  uint32_t *order, *values, *unbounded;
  float* scores = nullptr;
};

Selector make_selector(const ProximityGraphRequest& request, const GraphPlan& plan, Layout& layout) {
  return Selector(request.selection, request.candidate_group_size > 1, plan.groups_at_once * layout.rows_per_group,
                  layout.scratch);
}

size_t bytes_needed(const ProximityGraphRequest& request, const GraphPlan& plan) {
  Layout layout(request, plan, nullptr);
  if (plan.fused_rows == 0) make_selector(request, plan, layout);
  return layout.scratch.num_bytes();
}

}  // namespace

GraphPlan plan_proximity_graph(const ProximityGraphRequest& request, size_t max_bytes, int max_fused_rows) {
  GraphPlan plan;
  plan.draws_at_once = plan.groups_at_once = 1;
  const Layout least(request, plan, nullptr);
  if (can_prefilter(request)) {
    plan.fused_rows = fused_rows(least.rows_per_group, least.num_columns, request.features.dim, max_fused_rows);
  }
  const auto fits = [&] { return bytes_needed(request, plan) <= max_bytes; };
  const size_t draw_bytes = sizeof(uint32_t) * least.draw.values_stride;
  const auto max_draws =
      std::min(request.num_groups, std::max<int64_t>(1, static_cast<int64_t>(tuning::kDrawBytes / draw_bytes)));
  if (plan.fused_rows == 0) {
    const size_t group_bytes = sizeof(float) * static_cast<size_t>(least.rows_per_group * least.num_columns);
    plan.groups_at_once =
        std::min({kMaxGroups, request.num_groups,
                  std::max<int64_t>(1, static_cast<int64_t>(tuning::kGraphScoreBytes / group_bytes))});
    plan.draws_at_once = plan.groups_at_once;
    while (plan.groups_at_once > 1 && !fits()) {
      plan.draws_at_once = plan.groups_at_once = (plan.groups_at_once + 1) / 2;
    }
  }
  // Draws for more groups at a time where there is room: a multiple of groups_at_once.
  const int64_t min_draws = plan.groups_at_once;
  for (int64_t draws = max_draws; draws > min_draws; draws /= 2) {
    plan.draws_at_once = std::max<int64_t>(1, draws / min_draws) * min_draws;
    if (fits()) break;
    plan.draws_at_once = min_draws;
  }
  plan.scratch_bytes = bytes_needed(request, plan);
  require_scratch(plan.scratch_bytes, max_bytes);
  return plan;
}

void launch_group_order(int64_t num_rows, uint64_t seed, uint32_t* order, void* stream) {
  const auto num_blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(num_rows, 256), 1024));
  device::launch(group_order_kernel, dim3(num_blocks), dim3(256), 0, static_cast<device::Stream>(stream),
                 static_cast<uint32_t>(num_rows), seed, order);
}

void proximity_graph(const ProximityGraphRequest& request, const GraphPlan& plan, const Edges& edges, void* scratch,
                     uint64_t* status, void* raw_stream) {
  const auto stream = static_cast<device::Stream>(raw_stream);
  Layout layout(request, plan, scratch);
  const bool is_shared = request.candidate_group_size > 1;
  const Metric metric = request.selection.metric;
  const int64_t num_rows = request.num_rows;
  if (is_shared) launch_group_order(num_rows, request.seed, layout.order, raw_stream);

  ScoreBlock block{};
  block.queries = request.features;
  block.base = request.documents;
  block.query_norms = layout.query_norms;
  block.base_norms = layout.base_norms;
  block.query_ids = block.base_ids = request.rows;
  block.order = layout.order;
  block.candidates = layout.values;
  block.candidates_stride = layout.draw.values_stride;
  block.rows_per_group = layout.rows_per_group;
  block.num_candidates = layout.num_columns;
  block.exclude_self = is_shared;
  block.selection = request.selection;
  // Matrix top-k prefilters by one threshold, so it needs range_min = 0. Fused top-k cuts at both ranks.
  const bool is_prefiltered = can_prefilter(request) && (plan.fused_rows > 0 || request.selection.range_min == 0);
  uint32_t* const unbounded_word = is_prefiltered ? layout.unbounded : nullptr;
  if (unbounded_word != nullptr) {
    block.unbounded = unbounded_word;
    block.margin = 2.0 * tensor_core_prefilter_error(request.features.dim);
    device::fill_async(unbounded_word, 0, sizeof(uint32_t), stream);
  }
  launch_row_norms(request.features, request.rows, num_rows, metric, layout.query_norms, StatusKind::kBadFeature,
                   status, unbounded_word, stream);
  if (layout.has_two_towers) {
    launch_row_norms(request.documents, request.rows, num_rows, metric, layout.base_norms, StatusKind::kBadDocument,
                     status, unbounded_word, stream);
  }
  const auto take_groups = [&](int64_t first, int64_t count) {
    block.first_row = first * layout.rows_per_group;
    block.num_rows = std::min(count * layout.rows_per_group, num_rows - block.first_row);
  };
  std::optional<Selector> selector;
  if (plan.fused_rows == 0) selector = make_selector(request, plan, layout);
  const int64_t end_group = request.first_group + request.num_groups;
  for (int64_t first_drawn = request.first_group; first_drawn < end_group; first_drawn += plan.draws_at_once) {
    const int64_t num_drawn = std::min(plan.draws_at_once, end_group - first_drawn);
    device::launch(candidate_draw_kernel, dim3(static_cast<unsigned>(std::min(num_drawn, layout.draw_blocks))),
                   dim3(kDrawThreads), layout.draw_shared_bytes, stream, layout.draw,
                   static_cast<uint32_t>(first_drawn), static_cast<uint32_t>(num_drawn), layout.values, layout.tables);
    if (plan.fused_rows > 0) {
      take_groups(first_drawn, num_drawn);
      launch_fused_topk(block, plan.fused_rows, edges, stream);
      continue;
    }
    for (int64_t first = 0; first < num_drawn; first += plan.groups_at_once) {
      take_groups(first_drawn + first, std::min(plan.groups_at_once, num_drawn - first));
      block.candidates = layout.values + first * layout.draw.values_stride;
      launch_scores(block, layout.scores, stream);
      selector->launch(block, layout.scores, edges, stream);
    }
  }
}

}  // namespace bse::cuda

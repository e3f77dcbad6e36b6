// Proximity graphs on the GPU: draws, scores and selection of so many groups at a time that their scores stay in L2.

#include <algorithm>
#include <optional>

#include "../common/screening.h"
#include "candidate_draw_kernel.cuh"
#include "group_order_kernel.cuh"
#include "link_launch.h"
#include "warm_start.h"

namespace bse::cuda {

namespace {

constexpr int64_t kMostGroups = 65535;           // of a launch
constexpr size_t kSlabBytes = size_t{32} << 20;  // scores at a time, while memory allows: what L2 holds

// What a run lays out in scratch.
struct Layout {
  Layout(const GraphRequest& request, int64_t groups_at_once, void* buffer) : scratch(buffer) {
    const bool is_shared = request.rows_per_draw > 1;
    rows_per_group = std::min(request.rows_per_draw, request.num_rows);
    num_groups = ceil_div(request.num_rows, rows_per_group);
    num_columns = request.num_candidates + (is_shared ? 1 : 0);
    has_two_towers = request.two_towers;

    draw.num_drawn = static_cast<uint32_t>(num_columns);
    draw.n = static_cast<uint32_t>(request.num_rows - (is_shared ? 0 : 1));
    draw.seed = request.seed;
    draw.are_own = !is_shared;
    draw.values_stride = draw.num_drawn;
    draw_blocks = std::min(groups_at_once, int64_t{8} * device::num_multiprocessors());
    if (draw_is_sparse(draw.num_drawn, draw.n)) {
      draw.num_slots = DistinctList::num_slots(draw.num_drawn, kWordsAtOnce);
      draw.table_is_shared = device::shared_bytes<uint64_t>(draw.num_slots) <= kSharedBytes;
      if (!draw.table_is_shared) tables = scratch.take<uint64_t>(draw_blocks * draw.num_slots);
    } else {
      draw.values_stride = draw.n;
    }
    query_terms = scratch.take<float>(request.num_rows);
    base_terms = has_two_towers ? scratch.take<float>(request.num_rows) : query_terms;
    unbounded = scratch.take<uint32_t>(1);
    order = is_shared ? scratch.take<uint32_t>(request.num_rows) : nullptr;
    values = scratch.take<uint32_t>(groups_at_once * draw.values_stride);
    slab = scratch.take<float>(groups_at_once * rows_per_group * num_columns);
    if (request.previous.neighbors != nullptr) {
      warm_start.emplace(
          WarmRequest{request.previous, request.pool_row_of, request.rows, request.num_candidates, request.seed},
          groups_at_once, scratch);
    }
  }

  Scratch scratch;
  DrawPlan draw{};
  int64_t rows_per_group, num_groups, num_columns, draw_blocks;
  bool has_two_towers;
  uint64_t* tables = nullptr;
  float *query_terms, *base_terms;
  uint32_t *order, *values, *unbounded;
  float* slab;
  std::optional<WarmStart> warm_start;
};

size_t bytes_needed(const GraphRequest& request, int64_t groups_at_once) {
  Layout layout(request, groups_at_once, nullptr);
  const Selector selector(request.selection, request.rows_per_draw > 1, groups_at_once * layout.rows_per_group,
                          layout.scratch);
  return layout.scratch.num_bytes();
}

}  // namespace

GraphPlan plan_proximity_graph(const GraphRequest& request, size_t max_bytes) {
  const Layout least(request, 1, nullptr);
  const size_t group_bytes = sizeof(float) * static_cast<size_t>(least.rows_per_group * least.num_columns);
  GraphPlan plan;
  plan.groups_at_once =
      std::min({kMostGroups, least.num_groups, std::max<int64_t>(1, static_cast<int64_t>(kSlabBytes / group_bytes))});
  while (plan.groups_at_once > 1 && bytes_needed(request, plan.groups_at_once) > max_bytes) {
    plan.groups_at_once = (plan.groups_at_once + 1) / 2;
  }
  plan.scratch_bytes = bytes_needed(request, plan.groups_at_once);
  require_scratch(plan.scratch_bytes, max_bytes);
  return plan;
}

void proximity_graph(const GraphRequest& request, const GraphPlan& plan, const Links& links, void* scratch,
                     uint64_t* status, void* raw_stream) {
  const auto stream = static_cast<device::Stream>(raw_stream);
  Layout layout(request, plan.groups_at_once, scratch);
  const bool is_shared = request.rows_per_draw > 1;
  const Selector selector(request.selection, is_shared, plan.groups_at_once * layout.rows_per_group, layout.scratch);
  const Metric metric = request.selection.metric;
  const int64_t num_rows = request.num_rows;
  if (is_shared) {
    const auto num_blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(num_rows, 256), 1024));
    device::launch(group_order_kernel, dim3(num_blocks), dim3(256), 0, stream, static_cast<uint32_t>(num_rows),
                   request.seed, layout.order);
  }

  ScoreBlock block{};
  block.queries = request.features;
  block.base = request.keys;
  block.query_terms = layout.query_terms;
  block.base_terms = layout.base_terms;
  block.query_ids = block.base_ids = request.rows;
  block.order = layout.order;
  block.candidates = layout.values;
  block.candidates_stride = layout.draw.values_stride;
  block.rows_per_group = layout.rows_per_group;
  block.num_candidates = layout.num_columns;
  block.exclude_self = is_shared;
  block.selection = request.selection;
  uint32_t* const unbounded_word = can_screen(block, links) ? layout.unbounded : nullptr;
  if (unbounded_word != nullptr) {
    block.unbounded = unbounded_word;
    block.margin = 2.0 * tensor_core_screening_error(request.features.dim);
    device::fill_async(unbounded_word, 0, sizeof(uint32_t), stream);
  }
  launch_row_terms(request.features, request.rows, num_rows, metric, layout.query_terms, StatusKind::kFeatureNotFinite,
                   status, unbounded_word, stream);
  if (layout.has_two_towers) {
    launch_row_terms(request.keys, request.rows, num_rows, metric, layout.base_terms, StatusKind::kKeyNotFinite, status,
                     unbounded_word, stream);
  }
  const size_t table_bytes = layout.draw.table_is_shared ? device::shared_bytes<uint64_t>(layout.draw.num_slots) : 0;
  for (int64_t first = 0; first < layout.num_groups; first += plan.groups_at_once) {
    const int64_t num_groups = std::min(plan.groups_at_once, layout.num_groups - first);
    device::launch(candidate_draw_kernel, dim3(static_cast<unsigned>(std::min(num_groups, layout.draw_blocks))),
                   dim3(kDrawThreads), table_bytes, stream, layout.draw, static_cast<uint32_t>(first),
                   static_cast<uint32_t>(num_groups), layout.values, layout.tables);
    if (layout.warm_start) {
      block.candidates =
          layout.warm_start->launch(first, num_groups, layout.values, layout.draw.values_stride, status, stream);
      block.candidates_stride = layout.num_columns;
    }
    block.first_row = first * layout.rows_per_group;
    block.num_rows = std::min(num_groups * layout.rows_per_group, num_rows - block.first_row);
    launch_scores(block, layout.slab, stream);
    selector.launch(block, layout.slab, links, stream);
  }
}

}  // namespace bse::cuda

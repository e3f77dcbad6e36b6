#include <algorithm>

#include "common/prefilter_bound.h"
#include "cuda/runtime/grid_size.h"
#include "cuda/runtime/scratch.h"
#include "cuda/streaming_topk/list_edges_kernel.cuh"
#include "cuda/streaming_topk/list_prefilter_kernel.cuh"
#include "cuda/streaming_topk/list_score_kernel.cuh"
#include "cuda/streaming_topk/narrow_labels_kernel.cuh"
#include "cuda/streaming_topk/streaming_topk.h"
#include "cuda/types/tuning.h"

namespace bse::cuda {

namespace {

constexpr int64_t kTile = CandidateLists::kTile;
constexpr size_t kStaticSharedBytes = 5 << 10;  // upper bound for list_prefilter_kernel
static_assert(sizeof(ListRowState) + sizeof(ListRowConditions) <= kStaticSharedBytes, "room for both");
constexpr size_t kReservedSharedBytes = 1 << 10;  // taken by the driver for each block

int64_t blocks_at_once() { return tuning::kListBlocksPerMultiprocessor * device::num_multiprocessors(); }

// Returns the number of splits of the base with the lowest estimated time, in units of a tile's time. The estimate is
// waves of blocks times the length of a block, plus the time to join lists.
int64_t best_split(int64_t num_rows, int64_t num_columns, int64_t max_splits) {
  const int64_t row_tiles = ceil_div(num_rows, kTile), column_tiles = ceil_div(num_columns, kTile);
  const int64_t most = std::min({max_splits, column_tiles / tuning::kMinSplitTiles, blocks_at_once()});
  const int64_t cut_cost = tuning::kSplitCuts * ceil_div(std::min(num_rows, kTile), tuning::kCutRowsPerTile);
  const int64_t join_cost = ceil_div(num_rows, tuning::kJoinedRowsPerMultiprocessor * device::num_multiprocessors());
  int64_t best = 1, min_cost = 0;
  for (int64_t splits = 1; splits <= most; ++splits) {
    const int64_t cost = ceil_div(row_tiles * splits, blocks_at_once()) * (ceil_div(column_tiles, splits) + cut_cost) +
                         splits * join_cost;
    if (splits > 1 && cost >= min_cost) continue;
    best = splits;
    min_cost = cost;
  }
  return best;
}

}  // namespace

int64_t num_list_selected(const KnnRequest& request) {
  const Selection& selection = request.selection;
  return std::min(selection.num_neighbors + std::min(selection.range_min, request.num_base), request.num_base);
}

bool lists_pay(const KnnRequest& request) {
  const int64_t num_selected = num_list_selected(request);
  return num_selected <= tuning::kMaxListSelected && request.num_base >= tuning::kMinListColumns &&
         request.num_base >= tuning::kMinColumnsPerSelected * num_selected;
}

// Only cosine has this fast path: prefilter_bound.h bounds no error for other metrics.
bool can_prefilter_lists(const KnnRequest& request) {
  return holds_aligned_bfloat16(request.queries) && holds_aligned_bfloat16(request.base) &&
         request.selection.metric == Metric::kCosine && request.queries.dim <= kMaxPrefilterDim;
}

int64_t ListSearch::capacity(const KnnRequest& request) {
  return ceil_div(tuning::max_listed(num_list_selected(request)) + kTile, 32) * 32;
}

int64_t ListSearch::rows_at_once(const KnnRequest& request, size_t num_bytes) {
  const size_t row_bytes = sizeof(uint64_t) * static_cast<size_t>(capacity(request)) + sizeof(uint32_t);
  const auto most = static_cast<int64_t>(std::min<size_t>(num_bytes / row_bytes, size_t{1} << 40));
  if (most >= request.num_queries) return request.num_queries;
  const int64_t wave = kTile * blocks_at_once();
  return std::max<int64_t>(1, most < wave ? most : most / wave * wave);
}

ListSearch::ListSearch(const KnnRequest& request, int64_t rows_at_once, size_t max_bytes, Scratch& scratch) {
  lists_.capacity = static_cast<uint32_t>(capacity(request));
  lists_.num_selected = static_cast<uint32_t>(num_list_selected(request));
  if (can_prefilter_lists(request)) {
    // Limits are rounded to float32. At scores of at most 1.02 the error is less than 2^-23.
    lists_.margin = static_cast<float>(2.0 * tensor_core_prefilter_error(request.queries.dim) + 0x1p-22);
  }
  while (sort_length_ < lists_.room()) sort_length_ *= 2;
  const auto bytes_at = [&](int64_t splits) {
    return static_cast<size_t>(rows_at_once * splits) * (sizeof(uint64_t) * lists_.capacity + sizeof(uint32_t));
  };
  max_splits_ = 1;
  const int64_t wanted = best_split(rows_at_once, request.num_base, blocks_at_once());
  while (max_splits_ < wanted && bytes_at(max_splits_ + 1) <= max_bytes) ++max_splits_;
  lists_.entries = scratch.take<uint64_t>(rows_at_once * max_splits_ * lists_.capacity);
  lists_.counts = scratch.take<uint32_t>(rows_at_once * max_splits_);
  if (can_prefilter_lists(request) && request.selection.labels != nullptr) {
    labels_.of_base = scratch.take<int32_t>(request.num_base);
    labels_.has_wide = scratch.take<uint32_t>(1);
  }
}

void ListSearch::launch_preparation(const KnnRequest& request, device::Stream stream) const {
  if (labels_.of_base == nullptr) return;
  device::fill_async(labels_.has_wide, 0, sizeof *labels_.has_wide, stream);
  const auto num_blocks = static_cast<unsigned>(ceil_div(request.num_base, kNarrowLabelThreads));
  device::launch(narrow_labels_kernel, dim3(num_blocks), dim3(kNarrowLabelThreads), 0, stream, request.selection.labels,
                 request.base_ids, request.num_base, labels_);
}

void ListSearch::launch(const ScoreBlock& block, const Edges& edges, device::Stream stream) const {
  CandidateLists lists = lists_;
  const int64_t column_tiles = ceil_div(block.num_candidates, kTile);
  const int64_t split_tiles = ceil_div(column_tiles, best_split(block.num_rows, block.num_candidates, max_splits_));
  lists.columns_per_split = split_tiles * kTile;
  lists.num_splits = static_cast<uint32_t>(ceil_div(column_tiles, split_tiles));  // no split is empty
  const dim3 grid(static_cast<unsigned>(ceil_div(block.num_rows, kTile) * lists.num_splits));
  if (block.unbounded != nullptr) {  // one of the two scoring kernels returns at once
    using Tile = ListPrefilterTile;
    const int64_t num_slices = ceil_div(block.queries.dim, Tile::kDepth);
    // A multiprocessor has the maximum of one block plus the driver's reserve for a block.
    const size_t room = (device::max_shared_bytes() + kReservedSharedBytes) / tuning::kListBlocksPerMultiprocessor -
                        kReservedSharedBytes - kStaticSharedBytes;
    const bool holds_queries = Tile::shared_bytes(num_slices) <= std::max(room, Tile::shared_bytes(Tile::kStages));
    const int64_t num_query_panels = holds_queries ? num_slices : Tile::kStages;
    const bool is_restricted = labels_.of_base != nullptr || block.selection.has_max_score;
    device::launch(is_restricted ? list_prefilter_kernel<true> : list_prefilter_kernel<false>, grid,
                   dim3(Tile::kThreads), Tile::shared_bytes(num_query_panels), stream, block, lists, labels_,
                   static_cast<int>(num_query_panels));
  }
  device::launch(block.selection.metric == Metric::kL2 ? list_score_kernel<true> : list_score_kernel<false>, grid,
                 dim3(ListScoreTile::kThreads), 0, stream, block, lists);
  const auto num_blocks = static_cast<unsigned>(ceil_div(block.num_rows, kListEdgeWarps));
  device::launch(list_edges_kernel, dim3(num_blocks), dim3(32 * kListEdgeWarps),
                 device::shared_bytes<uint64_t>(kListEdgeWarps * sort_length_), stream, block, lists, sort_length_,
                 edges);
}

}  // namespace bse::cuda

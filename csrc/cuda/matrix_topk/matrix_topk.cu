#include <algorithm>

#include "common/prefilter_bound.h"
#include "cuda/matrix_topk/matrix_topk.h"
#include "cuda/matrix_topk/prefilter_kernel.cuh"
#include "cuda/matrix_topk/score_kernel.cuh"
#include "cuda/matrix_topk/select_kernel.cuh"
#include "cuda/primitives/row_norms_kernel.cuh"

namespace bse::cuda {

namespace {

template <class Tile>
dim3 tile_grid(const ScoreBlock& block) {
  const int64_t num_groups = ceil_div(block.num_rows, block.rows_per_group);
  // Row tiles and column tiles share x, which has room for 2^31 - 1 blocks. y and z have room for 65535.
  const int64_t num_tiles =
      ceil_div(block.num_candidates, Tile::kColumns) * ceil_div(block.rows_per_group, Tile::kRows);
  return dim3(static_cast<unsigned>(num_tiles), 1, static_cast<unsigned>(num_groups));
}

template <class Tile>
void launch_tiles(const ScoreBlock& block, float* scores, device::Stream stream) {
  const auto kernel = block.selection.metric == Metric::kL2 ? score_kernel<Tile, true> : score_kernel<Tile, false>;
  device::launch(kernel, tile_grid<Tile>(block), dim3(Tile::kThreads), 0, stream, block, scores);
}

}  // namespace

void launch_row_norms(const DeviceMatrix& matrix, const int64_t* ids, int64_t count, Metric metric, float* norms,
                      StatusKind bad_row, uint64_t* status, uint32_t* unbounded, device::Stream stream) {
  const auto num_blocks = static_cast<unsigned>(ceil_div(count, 32 * kNormWarps));
  device::launch(row_norms_kernel, dim3(num_blocks), dim3(32 * kNormWarps), 0, stream, matrix, ids, count, metric,
                 norms, bad_row, status, unbounded);
}

// Only cosine has this fast path, and the fused engine with it: prefilter_bound.h bounds no error for other metrics.
bool can_prefilter(const DeviceMatrix& queries, const DeviceMatrix& base, const Selection& selection, bool has_scores) {
  return holds_aligned_bfloat16(queries) && holds_aligned_bfloat16(base) && selection.metric == Metric::kCosine &&
         queries.dim <= kMaxPrefilterDim && !selection.has_max_score && !selection.sort && !has_scores;
}

void launch_scores(const ScoreBlock& block, float* scores, device::Stream stream) {
  if (block.rows_per_group == 1) return launch_tiles<RowTile>(block, scores, stream);
  if (block.unbounded != nullptr) {  // one of the two scoring kernels returns at once
    device::launch(prefilter_kernel, tile_grid<PrefilterTile>(block), dim3(PrefilterTile::kThreads),
                   PrefilterTile::kSharedBytes, stream, block, scores);
  }
  launch_tiles<WideTile>(block, scores, stream);
}

Selector::Selector(const Selection& selection, bool excludes_last, int64_t rows_at_once, Scratch& scratch)
    : max_blocks_(std::min(rows_at_once, int64_t{16} * device::num_multiprocessors())) {
  plan_.excludes_last = excludes_last;
  if (!selection.sort) return;
  plan_.sort_length = 1;
  while (plan_.sort_length < selection.num_neighbors) plan_.sort_length *= 2;
  plan_.sort_is_shared = device::shared_bytes<uint64_t>(plan_.sort_length) <= kSharedBytes;
  if (!plan_.sort_is_shared) sort_buffers_ = scratch.take<uint64_t>(max_blocks_ * plan_.sort_length);
}

void Selector::launch(const ScoreBlock& block, float* scores, const Edges& edges, device::Stream stream) const {
  const auto num_blocks = static_cast<unsigned>(std::min(block.num_rows, max_blocks_));
  const size_t shared_bytes = plan_.sort_is_shared ? device::shared_bytes<uint64_t>(plan_.sort_length) : 0;
  const auto launch = [&](auto* kernel) {
    device::launch(kernel, dim3(num_blocks), dim3(kSelectThreads), shared_bytes, stream, block, plan_, scores, edges,
                   sort_buffers_);
  };
  if (block.num_candidates <= 2 * kSelectThreads) return launch(select_kernel<2, true>);
  if (block.num_candidates <= 8 * kSelectThreads) return launch(select_kernel<8, true>);
  launch(select_kernel<8, false>);
}

}  // namespace bse::cuda

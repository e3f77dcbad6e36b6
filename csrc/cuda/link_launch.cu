#include <algorithm>

#include "link_launch.h"
#include "row_terms_kernel.cuh"
#include "score_kernel.cuh"
#include "select_kernel.cuh"

namespace bse::cuda {

namespace {

template <class Tile>
void launch_tiles(const ScoreBlock& block, int64_t num_groups, float* slab, device::Stream stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(block.num_candidates, Tile::kColumns)),
                  static_cast<unsigned>(ceil_div(block.rows_per_group, Tile::kRows)),
                  static_cast<unsigned>(num_groups));
  device::launch(score_kernel<Tile>, grid, dim3(Tile::kThreads), 0, stream, block, slab);
}

}  // namespace

void launch_row_terms(const DeviceMatrix& matrix, const int64_t* ids, int64_t count, Metric metric, float* terms,
                      StatusKind not_finite, uint64_t* status, device::Stream stream) {
  const auto num_blocks = static_cast<unsigned>(ceil_div(count, 32 * kTermWarps));
  device::launch(row_terms_kernel, dim3(num_blocks), dim3(32 * kTermWarps), 0, stream, matrix, ids, count, metric,
                 terms, not_finite, status);
}

void launch_scores(const ScoreBlock& block, float* slab, device::Stream stream) {
  const int64_t num_groups = ceil_div(block.num_rows, block.rows_per_group);
  if (block.rows_per_group == 1) {
    launch_tiles<RowTile>(block, num_groups, slab, stream);
  } else {
    launch_tiles<WideTile>(block, num_groups, slab, stream);
  }
}

Selector::Selector(const Selection& selection, bool excludes_last, Scratch& scratch)
    : max_blocks_(int64_t{16} * device::num_multiprocessors()) {
  plan_.excludes_last = excludes_last;
  if (!selection.sort) return;
  plan_.sort_length = 1;
  while (plan_.sort_length < selection.num_neighbors) plan_.sort_length *= 2;
  plan_.sort_is_shared = device::shared_bytes<uint64_t>(plan_.sort_length) <= kSharedBytes;
  if (!plan_.sort_is_shared) sort_buffers_ = scratch.take<uint64_t>(max_blocks_ * plan_.sort_length);
}

void Selector::launch(const ScoreBlock& block, const float* slab, const Links& links, device::Stream stream) const {
  const auto num_blocks = static_cast<unsigned>(std::min(block.num_rows, max_blocks_));
  const size_t shared_bytes = plan_.sort_is_shared ? device::shared_bytes<uint64_t>(plan_.sort_length) : 0;
  device::launch(select_kernel, dim3(num_blocks), dim3(kSelectThreads), shared_bytes, stream, block, plan_, slab, links,
                 sort_buffers_);
}

}  // namespace bse::cuda

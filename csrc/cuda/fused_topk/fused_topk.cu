#include "cuda/fused_topk/fused_topk.h"
#include "cuda/fused_topk/fused_topk_kernel.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

using Shape64 = FusedShape<64, 1, tuning::kFusedPanelDepth>;
using Shape32 = FusedShape<32, 1, tuning::kFusedPanelDepth>;
using Shape16 = FusedShape<16, 1, tuning::kSmallFusedPanelDepth>;
using WideShape32 = FusedShape<32, 2, tuning::kFusedPanelDepth>;

// Calls use(shape) for each shape with room for the columns, in order of descending rows, until it returns true.
template <class Use>
bool with_shape(int64_t num_columns, const Use& use) {
  if (num_columns <= Shape64::kMaxColumns) return use(Shape64{}) || use(Shape32{}) || use(Shape16{});
  return num_columns <= WideShape32::kMaxColumns && use(WideShape32{});
}

}  // namespace

int fused_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows) {
  const size_t max_bytes = device::max_shared_bytes();
  int result = 0;
  with_shape(num_columns, [&](auto shape) {
    using Shape = decltype(shape);
    const size_t static_bytes =
        device::shared_bytes<BlockRows<Shape::kRows>>(1) + device::shared_bytes<SelectScratch>(1);
    // Absent rows cost as much as present ones, so more than half of the rows must exist. Shapes of 16 rows, the fewest
    // that mma takes, are always accepted: the tiles of a score matrix would be emptier still.
    const bool is_filled = Shape::kRows == 16 || Shape::kRows < 2 * rows_per_group;
    if (Shape::kRows > max_rows || !is_filled) return false;
    if (static_bytes + fused_shared_bytes<Shape>(num_columns, dim) > max_bytes) return false;
    result = Shape::kRows;
    return true;
  });
  return result;
}

void launch_fused_topk(const ScoreBlock& block, int fused_rows, const Edges& edges, device::Stream stream) {
  const int64_t num_groups = ceil_div(block.num_rows, block.rows_per_group);
  const auto num_fused = static_cast<unsigned>(num_groups * ceil_div(block.rows_per_group, fused_rows));
  with_shape(block.num_candidates, [&](auto shape) {
    using Shape = decltype(shape);
    if (Shape::kRows != fused_rows) return false;
    device::launch(fused_topk_kernel<Shape>, dim3(num_fused), dim3(Shape::kThreads),
                   fused_shared_bytes<Shape>(block.num_candidates, block.queries.dim), stream, block,
                   quantized_window(block.queries.dim), edges);
    return true;
  });
}

}  // namespace bse::cuda

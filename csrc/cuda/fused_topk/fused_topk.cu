#include "cuda/fused_topk/fused_topk.h"
#include "cuda/fused_topk/fused_topk_kernel.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

constexpr int kStages = tuning::kBandPanelStages;
using Band64 = Band<64, 1, kStages>;
using Band32 = Band<32, 1, kStages>;
using Band16 = Band<16, 1, tuning::kLowBandPanelStages>;
using WideBand32 = Band<32, 2, kStages>;

// Calls use(shape) for each shape with room for the columns, the most rows first, until it returns true.
template <class Use>
bool with_shape(int64_t num_columns, const Use& use) {
  if (num_columns <= Band64::kMostColumns) return use(Band64{}) || use(Band32{}) || use(Band16{});
  return num_columns <= WideBand32::kMostColumns && use(WideBand32{});
}

}  // namespace

int band_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows) {
  const size_t max_bytes = device::max_shared_bytes();
  int result = 0;
  with_shape(num_columns, [&](auto shape) {
    using Shape = decltype(shape);
    const size_t static_bytes =
        device::shared_bytes<BandRows<Shape::kRows>>(1) + device::shared_bytes<SelectScratch>(1);
    // Rows that are not there cost as much as others: less than half of a band, unless it is of the fewest rows that
    // mma has; a slab's tiles would be emptier still.
    const bool is_filled = Shape::kRows == 16 || Shape::kRows < 2 * rows_per_group;
    if (Shape::kRows > max_rows || !is_filled) return false;
    if (static_bytes + band_bytes<Shape>(num_columns, dim) > max_bytes) return false;
    result = Shape::kRows;
    return true;
  });
  return result;
}

void launch_bands(const ScoreBlock& block, int band_rows, const Links& links, uint32_t* last_guess,
                  device::Stream stream) {
  const int64_t num_groups = ceil_div(block.num_rows, block.rows_per_group);
  const auto num_bands = static_cast<unsigned>(num_groups * ceil_div(block.rows_per_group, band_rows));
  with_shape(block.num_candidates, [&](auto shape) {
    using Shape = decltype(shape);
    if (Shape::kRows != band_rows) return false;
    device::launch(band_kernel<Shape>, dim3(num_bands), dim3(Shape::kThreads),
                   band_bytes<Shape>(block.num_candidates, block.queries.dim), stream, block,
                   key_window(block.queries.dim), links, last_guess);
    return true;
  });
}

}  // namespace bse::cuda

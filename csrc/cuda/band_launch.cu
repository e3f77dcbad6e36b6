#include "band_kernel.cuh"
#include "band_launch.h"
#include "grid_size.h"

namespace bse::cuda {

namespace {

// Calls use(shape) for each shape with room for the columns, the most rows first, until it returns true.
template <class Use>
bool with_shape(int64_t num_columns, const Use& use) {
  if (num_columns <= Band<64, 1>::kMostColumns) {
    return use(Band<64, 1>{}) || use(Band<32, 1>{}) || use(Band<16, 1>{});
  }
  return num_columns <= Band<32, 2>::kMostColumns && use(Band<32, 2>{});
}

}  // namespace

int band_rows(int64_t rows_per_group, int64_t num_columns, int64_t dim, int max_rows) {
  const size_t max_bytes = device::max_shared_bytes();
  int result = 0;
  with_shape(num_columns, [&](auto shape) {
    using Shape = decltype(shape);
    const size_t static_bytes = sizeof(BandRows<Shape::kRows>) + sizeof(SelectScratch);
    // Rows that are not there cost as much as others: no more than half of a band.
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

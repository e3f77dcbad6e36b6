#include "cpu/topk/row_norms.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/simd/dispatch.h"

namespace bse {

namespace {

// Lowest row with an element that is not finite. So the row in the error message does not depend on threads.
class FirstBadRow {
 public:
  explicit FirstBadRow(const MatrixView& features) : features_(features) {}

  // Records the row if it has a bad element. A squared norm that overflows though all elements are finite is allowed.
  void look_at(int64_t row) {
    int64_t found = row_.load(std::memory_order_relaxed);
    if (row >= found || bad_column(row) == features_.dim) return;
    while (row < found && !row_.compare_exchange_weak(found, row, std::memory_order_relaxed)) {
    }
  }

  void require_none(const char* name) const {
    const int64_t row = row_.load(std::memory_order_relaxed);
    if (row == kNone) return;
    const int64_t column = bad_column(row);
    float scratch;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(row) + ", " + std::to_string(column) +
                                "]: expected finite values, got " +
                                std::to_string(*features_.read(row, column, 1, &scratch)));
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  int64_t bad_column(int64_t row) const {
    std::vector<float> scratch(static_cast<size_t>(features_.dim));
    const float* elements = features_.read(row, 0, features_.dim, scratch.data());
    return std::find_if(elements, elements + features_.dim, [](float x) { return !std::isfinite(x); }) - elements;
  }

  const MatrixView& features_;
  std::atomic<int64_t> row_{kNone};
};

}  // namespace

void compute_row_norms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out) {
  const KernelTable& kernels = kernel_table();
  constexpr int64_t kDepth = 128;
  const int width = kernels.panel_width;
  FirstBadRow first_bad(features);
  team.for_ranges(count, 4 * width, [&](int64_t begin, int64_t end, Worker& worker) {
    AlignedBuffer<float> scratch(width * kDepth), panel(width * kDepth), norms(width);
    std::vector<const float*> rows(static_cast<size_t>(width));
    for (int64_t first = begin; first < end; first += width) {
      if (worker.should_stop()) return;
      const int num_rows = static_cast<int>(std::min<int64_t>(width, end - first));
      const auto id = [&](int i) { return ids != nullptr ? ids[first + i] : first + i; };
      for (int64_t k = 0; k < features.dim; k += kDepth) {
        const int64_t depth = std::min(kDepth, features.dim - k);
        for (int i = 0; i < num_rows; ++i) rows[i] = features.read(id(i), k, depth, scratch.data() + i * depth);
        kernels.pack_panel(rows.data(), num_rows, depth, panel.data());
        kernels.squared_norms(panel.data(), depth, k > 0, norms.data());
      }
      for (int i = 0; i < num_rows; ++i) {
        if (!std::isfinite(norms[i])) first_bad.look_at(id(i));
        out[first + i] = row_norm(metric, norms[i]);
      }
    }
  });
  first_bad.require_none(name);
}

}  // namespace bse

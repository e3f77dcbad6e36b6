#include "cpu/topk/row_norms.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/simd/dispatch.h"

namespace bse {

namespace {

// Lowest row that cannot be scored. So the row in the error message does not depend on threads.
class FirstBadRow {
 public:
  FirstBadRow(const MatrixView& features, Metric metric) : features_(features), is_cosine_(metric == Metric::kCosine) {}

  // Records the row if it is bad. Call it for all rows but those that are good by their squared norm.
  void look_at(int64_t row, float squared_norm) {
    if (is_cosine_ ? has_accurate_cosines(squared_norm) : std::isfinite(squared_norm)) return;
    int64_t found = row_.load(std::memory_order_relaxed);
    if (row >= found) return;
    const std::vector<float> elements = read(row);
    const bool is_good = std::all_of(elements.begin(), elements.end(),
                                     [&](float x) { return is_cosine_ ? x == 0.0f : std::isfinite(x); });
    while (!is_good && row < found && !row_.compare_exchange_weak(found, row, std::memory_order_relaxed)) {
    }
  }

  void require_none(const char* name) const {
    const int64_t row = row_.load(std::memory_order_relaxed);
    if (row == kNone) return;
    const std::vector<float> elements = read(row);
    const std::string place = std::string(name) + "[" + std::to_string(row);
    double squared_norm = 0.0;
    for (size_t k = 0; k < elements.size(); ++k) {
      squared_norm += static_cast<double>(elements[k]) * static_cast<double>(elements[k]);
      if (std::isfinite(elements[k])) continue;
      throw std::invalid_argument(place + ", " + std::to_string(k) + "]: expected finite values, got " +
                                  std::to_string(elements[k]));
    }
    char norm[32];
    std::snprintf(norm, sizeof norm, "%.3g", std::sqrt(squared_norm));
    throw std::invalid_argument(place + "]: " + kNormExpected + ", got " + norm);
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  std::vector<float> read(int64_t row) const {
    std::vector<float> scratch(static_cast<size_t>(features_.dim));
    const float* elements = features_.read(row, 0, features_.dim, scratch.data());
    return {elements, elements + features_.dim};
  }

  const MatrixView& features_;
  const bool is_cosine_;
  std::atomic<int64_t> row_{kNone};
};

}  // namespace

void compute_row_norms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out) {
  const KernelTable& kernels = kernel_table();
  constexpr int64_t kDepth = 128;
  const int width = kernels.panel_width;
  FirstBadRow first_bad(features, metric);
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
        first_bad.look_at(id(i), norms[i]);
        out[first + i] = row_norm(metric, norms[i]);
      }
    }
  });
  first_bad.require_none(name);
}

}  // namespace bse

#include "row_terms.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned_buffer.h"
#include "isa.h"

namespace bse {

namespace {

// A squared norm may overflow although every element is finite: that is defined, and allowed.
void require_finite(const MatrixView& features, const char* name, int64_t row) {
  std::vector<float> scratch(static_cast<size_t>(features.dim));
  const float* elements = features.read(row, 0, features.dim, scratch.data());
  for (int64_t k = 0; k < features.dim; ++k) {
    if (!std::isfinite(elements[k])) {
      throw std::invalid_argument(std::string(name) + "[" + std::to_string(row) + ", " + std::to_string(k) +
                                  "]: expected finite values, got " + std::to_string(elements[k]));
    }
  }
}

}  // namespace

void compute_row_terms(ThreadTeam& team, const MatrixView& features, const char* name, const int64_t* ids,
                       int64_t count, Metric metric, float* out) {
  const KernelTable& kernels = kernel_table();
  constexpr int64_t kDepth = 128;
  const int width = kernels.panel_width;
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
        if (!std::isfinite(norms[i])) require_finite(features, name, id(i));
        out[first + i] = row_term(metric, norms[i]);
      }
    }
  });
}

}  // namespace bse

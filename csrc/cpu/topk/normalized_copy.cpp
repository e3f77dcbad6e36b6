#include "cpu/topk/normalized_copy.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/runtime/huge_pages.h"

namespace bse {

NormalizedCopy::NormalizedCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count,
                               ThreadTeam& team)
    : num_rows_(features.num_rows),
      dim_(features.dim),
      stride_(stride(features.dim)),
      elements_(features.num_rows * stride_) {
  constexpr int64_t kGrain = 256;
  prefer_huge_pages(elements_.data(), bytes(features));
  std::vector<float> largest(static_cast<size_t>(team.num_threads()));
  team.for_ranges(count, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    std::vector<float> scratch(static_cast<size_t>(dim_));
    float& largest_sum = largest[static_cast<size_t>(worker.index())];
    for (int64_t i = begin; i < end && !worker.should_stop(); ++i) {
      const int64_t id = ids != nullptr ? ids[i] : i;
      const float* row = features.read(id, 0, dim_, scratch.data());
      uint16_t* copied = elements_.data() + id * stride_;
      constexpr int64_t kLanes = 16;
      float sums[kLanes] = {};
      for (int64_t k = 0; k < dim_; ++k) {
        const float element = row[k] * norms[i];
        copied[k] = float_to_bfloat16(element);
        const float difference = element - bfloat16_to_float(copied[k]);
        sums[k % kLanes] += difference * difference;
      }
      std::fill(copied + dim_, copied + stride_, uint16_t{0});
      float sum = 0.0f;
      for (const float lane : sums) sum += lane;
      largest_sum = std::max(largest_sum, sum);
    }
  });
  // The factor covers the rounding of these sums, and 2^-23 that of the scaled elements.
  residual_ = 1.001 * std::sqrt(static_cast<double>(*std::max_element(largest.begin(), largest.end()))) + 0x1p-23;
}

MatrixView NormalizedCopy::view() const {
  MatrixView view;
  view.data = elements_.data();
  view.dtype = DType::kBFloat16;
  view.num_rows = num_rows_;
  view.dim = (dim_ + 1) / 2 * 2;  // whole pairs
  view.row_stride_elements = stride_;
  return view;
}

}  // namespace bse

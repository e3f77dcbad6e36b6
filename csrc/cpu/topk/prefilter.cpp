#include "cpu/topk/prefilter.h"

#include <algorithm>

#include "common/prefilter_bound.h"
#include "cpu/simd/dispatch.h"

namespace bse {

bool can_prefilter_blocks(const MatrixView& queries, const MatrixView& base) {
  return kernel_table().accumulate_pairs != nullptr && queries.holds_bfloat16() && base.holds_bfloat16();
}

bool can_prefilter_gathered(const MatrixView& queries, const MatrixView& base) {
  if (queries.dtype != base.dtype) return false;
  if (queries.dtype == DType::kBFloat16) return kernel_table().gather_bfloat16_dots != nullptr;
  return kernel_table().gather_dots != nullptr && queries.reads_in_place() && base.reads_in_place();
}

bool can_have_prefilter(int64_t dim, const Selection& selection) {
  // Only cosine has this fast path: prefilter_bound.h bounds no error for other metrics.
  return selection.metric == Metric::kCosine && !selection.has_max_score && dim <= kMaxPrefilterDim;
}

bool can_have_copies(int64_t dim, const Selection& selection) {
  constexpr int64_t kMinDimensions = 32;
  return dim >= kMinDimensions && can_have_prefilter(dim, selection);
}

int64_t allowed_copy_bytes(int64_t bytes, int64_t budget_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30;
  return bytes <= std::min(kMaxBytes, budget_bytes / 2) ? bytes : 0;
}

bool prefilter_is_bounded(const float* norms, int64_t count, int64_t dim, const Selection& selection) {
  return can_have_prefilter(dim, selection) && std::all_of(norms, norms + count, has_prefilter_bound);
}

Prefilter prefilter_by_features(const MatrixView& queries, const MatrixView& base) {
  const double error =
      base.dtype == DType::kFloat32 && !base.round_to_bf16 ? partial_sums_error(base.dim) : prefilter_error(base.dim);
  return {queries, base, false, 2.0 * error};
}

}  // namespace bse

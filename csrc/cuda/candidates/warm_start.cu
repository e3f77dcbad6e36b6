#include <algorithm>

#include "cuda/candidates/warm_start.h"
#include "cuda/candidates/warm_start_kernel.cuh"
#include "cuda/matrix_topk/matrix_topk.h"

namespace bse::cuda {

WarmStart::WarmStart(const WarmRequest& request, int64_t rows_at_once, Scratch& scratch)
    : request_(request),
      num_slots_(DistinctList::num_slots(static_cast<uint32_t>(request.num_candidates), kWarmThreads)),
      table_is_shared_(device::shared_bytes<uint64_t>(num_slots_) <= kSharedBytes),
      num_blocks_(std::min(rows_at_once, int64_t{8} * device::num_multiprocessors())) {
  if (!table_is_shared_) tables_ = scratch.take<uint64_t>(num_blocks_ * num_slots_);
  chosen_ = scratch.take<uint32_t>(rows_at_once * request.num_candidates);
}

const uint32_t* WarmStart::launch(int64_t first_row, int64_t num_rows, const uint32_t* drawn, int64_t drawn_stride,
                                  uint64_t* status, device::Stream stream) const {
  const auto num_blocks = static_cast<unsigned>(std::min(num_rows, num_blocks_));
  const size_t table_bytes = table_is_shared_ ? device::shared_bytes<uint64_t>(num_slots_) : 0;
  device::launch(warm_start_kernel, dim3(num_blocks), dim3(kWarmThreads), table_bytes, stream,
                 WarmSetting{request_, num_slots_, table_is_shared_}, first_row, num_rows, drawn, drawn_stride, chosen_,
                 tables_, status);
  return chosen_;
}

}  // namespace bse::cuda

// Lengths of the valid prefixes of a neighbor table, and a check of its ids. One warp per row.
//
// Reports an id outside [-1, num_instances). In rows without such an id, reports a -1 before a neighbor.
// csrc/cpu/walk/row_degrees.cpp does the same. One coalesced pass over the table.
#pragma once

#include "cuda/primitives/graph_view.cuh"
#include "cuda/runtime/report.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

__global__ void row_degrees_kernel(GraphView graph, int32_t* degrees /* [num_rows] */,
                                   uint64_t* status /* [kNumStatusWords] */) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t num_warps = int64_t{gridDim.x} * (blockDim.x / 32);
  for (int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32; row < graph.num_rows;
       row += num_warps) {
    const int32_t* const ids = graph.neighbors + row * graph.num_neighbors;
    int degree = 0, num_valid = 0;
    bool is_in_range = true;
    for (int64_t begin = 0; begin < graph.num_neighbors; begin += 32) {
      const int32_t id = begin + lane < graph.num_neighbors ? ids[begin + lane] : -1;
      is_in_range &= id >= -1 && id < graph.num_instances;
      const unsigned valid = __ballot_sync(kAllLanes, id >= 0);
      // The prefix continues only if all ids before this piece are valid.
      if (degree == begin) degree += valid == kAllLanes ? 32 : __ffs(static_cast<int>(~valid)) - 1;
      num_valid += __popc(valid);
    }
    is_in_range = __all_sync(kAllLanes, is_in_range);
    if (lane != 0) continue;
    degrees[row] = degree;
    if (!is_in_range) {
      report(status, StatusKind::kIdOutOfRange, static_cast<uint32_t>(row), 0);
    } else if (degree != num_valid) {
      report(status, StatusKind::kGapInPrefix, static_cast<uint32_t>(row), 0);
    }
  }
}

}  // namespace bse::cuda

// Keeps the edges i -> j of a graph whose row j lists i. One warp per row i.
//
// Lanes load 32 edges of the row. For each of them, all lanes scan row j for the id of row i, in coalesced reads. The
// kept edges go to the front of the row, in their order. R rows of K neighbors take O(R K^2) comparisons, and up to
// 4 R K^2 bytes are read from random rows. csrc/cpu/graph/mutual_edges.cpp does the same.
#pragma once

#include "cuda/primitives/graph_view.cuh"
#include "cuda/runtime/report.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// Whether a row lists `id`. All lanes of a warp call it.
BSE_DEVICE bool row_lists(const GraphView& graph, int64_t row, int32_t id) {
  const int32_t* const ids = graph.neighbors + row * graph.num_neighbors;
  bool is_found = false;
  for (int64_t k = threadIdx.x % 32; k < graph.num_neighbors; k += 32) is_found |= __ldg(ids + k) == id;
  return __any_sync(kAllLanes, is_found);
}

// Returns the row of a neighbor of `row`, or -1 if it has none. Reports an id that is out of range.
BSE_DEVICE int32_t mutual_target(const GraphView& graph, int64_t row, int32_t id, uint64_t* status) {
  if (id == -1) return -1;
  if (static_cast<uint32_t>(id) >= static_cast<uint32_t>(graph.num_instances)) {
    report(status, StatusKind::kNeighborNotARow, static_cast<uint32_t>(row), static_cast<uint32_t>(id));
    return -1;
  }
  const int32_t found = graph.row_of != nullptr ? __ldg(graph.row_of + id) : id;
  return found < graph.num_rows ? found : -1;
}

__global__ void mutual_edges_kernel(MutualEdgesRequest request, Edges edges, int32_t* degrees /* [num_rows] */,
                                    uint64_t* status /* [kNumStatusWords] */) {
  const GraphView& graph = request.graph;
  const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
  const int64_t num_warps = int64_t{gridDim.x} * (blockDim.x / 32);
  for (int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32; row < graph.num_rows;
       row += num_warps) {
    const auto own_id = static_cast<int32_t>(request.ids != nullptr ? request.ids[row] : row);
    const int64_t first = row * graph.num_neighbors;
    int64_t degree = 0;
    for (int64_t begin = 0; begin < graph.num_neighbors; begin += 32) {
      const int64_t k = begin + lane;
      const int32_t id = k < graph.num_neighbors ? graph.neighbors[first + k] : -1;
      const int32_t target = mutual_target(graph, row, id, status);
      unsigned kept = 0;
      for (unsigned left = __ballot_sync(kAllLanes, target >= 0); left != 0; left &= left - 1) {
        const int source = __ffs(static_cast<int>(left)) - 1;
        if (row_lists(graph, __shfl_sync(kAllLanes, target, source), own_id)) kept |= 1u << source;
      }
      if ((kept >> lane & 1) != 0) {
        const int64_t place = first + degree + __popc(kept & before);
        edges.neighbors[place] = id;
        if (edges.scores != nullptr) edges.scores[place] = request.scores[first + k];
      }
      degree += __popc(kept);
    }
    for (int64_t k = degree + lane; k < graph.num_neighbors; k += 32) {
      edges.neighbors[first + k] = -1;
      if (edges.scores != nullptr) edges.scores[first + k] = __uint_as_float(0xFF800000u);
    }
    if (lane == 0) degrees[row] = static_cast<int32_t>(degree);
  }
}

}  // namespace bse::cuda

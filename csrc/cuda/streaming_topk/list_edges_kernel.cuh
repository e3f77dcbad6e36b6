// Turns candidate lists into edges: joins the lists of a row's splits, cuts the result, scores it exactly and sorts it.
//
// Edges are in descending order of score. Ties go to the lower column, which is the lower id. Ranks range_min to
// range_min + K - 1 are kept. Each row takes one warp. O(entries) for each pass of cut_list(), plus O(K log^2 K) to
// sort.
#pragma once

#include "cuda/primitives/bitonic_sort.cuh"
#include "cuda/runtime/device.h"
#include "cuda/streaming_topk/list_cut.cuh"
#include "cuda/types/requests.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

constexpr int kListEdgeWarps = 4;

// Moves the lists of all splits behind the first one, `list`. Returns the state of the joined list.
BSE_DEVICE ListState join_lists(const CandidateLists& lists, int64_t row, uint64_t* list) {
  const uint32_t* counts = lists.counts + row * lists.num_splits;
  ListState joined{0, 0, __uint_as_float(0xFF800000u)};
  for (uint32_t split = 0; split < lists.num_splits; ++split) {
    const uint64_t* source = list + size_t{split} * lists.capacity;
    const uint32_t count = counts[split];
    for (uint32_t first = 0; split > 0 && first < count; first += 32) {
      const uint32_t i = first + threadIdx.x % 32;
      const uint64_t entry = i < count ? source[i] : 0;
      __syncwarp();  // all lanes have read what others now overwrite
      if (i < count) list[joined.count + i] = entry;
    }
    joined.count += count;
  }
  __syncwarp();
  return joined;
}

// grid: a warp for each row of the block      sort_length: a power of two of at least lists.room()
// Six blocks per multiprocessor allow 80 registers per thread. With fewer registers there are spills.
__global__ void __launch_bounds__(32 * kListEdgeWarps, 6)
    list_edges_kernel(ScoreBlock block, CandidateLists lists, uint32_t sort_length, Edges edges) {
  device::SharedMemory shared;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t* ranks = shared.take<uint64_t>(kListEdgeWarps * sort_length) + warp * sort_length;
  const int64_t row = int64_t{blockIdx.x} * kListEdgeWarps + warp;
  if (row >= block.num_rows) return;  // the whole warp returns
  const ListedQuery query(block, row, is_prefiltered(block));
  uint64_t* list = lists.entries + row * lists.num_splits * lists.capacity;
  ListState joined = join_lists(lists, row, list);
  cut_list(query, lists, list, joined);
  uint32_t length = 32;
  while (length < joined.count) length *= 2;
  for (uint32_t i = lane; i < length; i += 32) {
    const uint64_t entry = i < joined.count ? list[i] : ~uint64_t{0};
    ranks[i] = i < joined.count && query.is_prefiltered ? query.with_exact_score(entry) : entry;
  }
  warp_sort(ranks, length);

  const Selection& selection = block.selection;
  for (int64_t k = lane; k < selection.num_neighbors; k += 32) {
    const bool is_edge = selection.range_min + k < joined.count;
    const uint64_t rank = is_edge ? ranks[selection.range_min + k] : 0;
    const int64_t place = query.row * selection.num_neighbors + k;
    edges.neighbors[place] = is_edge ? static_cast<int32_t>(block.base_id(rank_tiebreak(rank))) : -1;
    if (edges.scores != nullptr) edges.scores[place] = is_edge ? rank_score(rank) : __uint_as_float(0xFF800000u);
  }
}

}  // namespace bse::cuda

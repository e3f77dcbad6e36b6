// Cutting a list of candidates to those that can still be among the best of its row; by one warp, in place.
//
// Entries are cut by rank, exactly. Where scores are approximate, with e as their error and T as a score that
// num_selected candidates reach: these have defined scores of at least T - e, so who is below T - 2 e is not among the
// best. If more than there is room for are within that margin (ties, clusters of near rows), the entries get their
// defined scores and are cut by rank: num_selected always suffice then. A defined score is a approximate one without an
// error, so that a list may hold both.
//
// O(length) for each of 5 to 15 passes in search of T, 64 at the worst.
#pragma once

#include "common/score.h"
#include "cuda/primitives/exact_dot.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"
#include "cuda/streaming_topk/candidate_lists.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Keeps the entries of [begin, end) that keep(entry) accepts, in order; it may change them. Returns the new end.
template <class Keep>
BSE_DEVICE uint32_t filter_list(uint64_t* list, uint32_t begin, uint32_t end, const Keep& keep) {
  constexpr int kAtOnce = 4;  // loads, so that a warp does not wait for each
  const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
  uint32_t num_kept = begin;
  for (uint32_t first = begin; first < end; first += 32 * kAtOnce) {
    uint64_t entries[kAtOnce];
    BSE_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const uint32_t i = first + 32 * u + lane;
      entries[u] = i < end ? list[i] : 0;
    }
    __syncwarp();  // all have read what others write now
    BSE_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const bool is_kept = first + 32 * u + lane < end && keep(entries[u]);
      const unsigned kept = __ballot_sync(kAllLanes, is_kept);
      if (is_kept) list[num_kept + __popc(kept & before)] = entries[u];
      num_kept += __popc(kept);
    }
  }
  __syncwarp();
  return num_kept;
}

// A rank that at least `least` entries and at most `most` do not exceed; least <= most < count.
BSE_DEVICE uint64_t find_bound(const uint64_t* list, uint32_t count, uint32_t least, uint32_t most) {
  const unsigned lane = threadIdx.x % 32;
  uint64_t low = ~uint64_t{0}, high = 0;
  for (uint32_t i = lane; i < count; i += 32) {
    low = list[i] < low ? list[i] : low;
    high = list[i] > high ? list[i] : high;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint64_t other_low = __shfl_xor_sync(kAllLanes, low, distance),
                   other_high = __shfl_xor_sync(kAllLanes, high, distance);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  if (least == 1) return low;
  // Fewer than `least` do not exceed low, more than `most` do not exceed high; ranks are distinct, so it ends.
  while (true) {
    const uint64_t middle = low + (high - low) / 2;
    uint32_t own = 0;
    for (uint32_t i = lane; i < count; i += 32) own += list[i] <= middle;
    const uint32_t reached = __reduce_add_sync(kAllLanes, own);
    if (reached >= least && reached <= most) return middle;
    (reached < least ? low : high) = middle;
  }
}

// The row that a list belongs to.
struct ListedQuery {
  const ScoreBlock& block;
  int64_t row, id, label;
  float norm;
  bool is_prefiltered;

  // position: among the rows of the block
  BSE_DEVICE ListedQuery(const ScoreBlock& score_block, int64_t position, bool has_approximate_scores)
      : block(score_block),
        row(block.query_row(block.first_row + position)),
        id(block.query_id(row)),
        label(block.selection.labels != nullptr ? block.selection.labels[id] : -1),
        norm(block.query_norms[row]),
        is_prefiltered(has_approximate_scores) {}

  BSE_DEVICE bool has_conditions() const { return block.exclude_self || label >= 0 || block.selection.has_max_score; }

  // Whether the candidate may be linked. margin: of its score, 0 if it is the defined one
  BSE_DEVICE bool allows(uint64_t entry, float margin) const {
    const Selection& selection = block.selection;
    const int64_t other = block.base_id(rank_tiebreak(entry));
    if (block.exclude_self && other == id) return false;
    if (label >= 0 && selection.labels[other] == label) return false;
    if (!selection.has_max_score || rank_score(entry) <= selection.max_score - margin) return true;
    return rank_score(margin > 0.0f ? with_defined_score(entry) : entry) <= selection.max_score;
  }

  // Of rows that prefiltering takes: aligned bfloat16, cosine.
  BSE_DEVICE uint64_t with_defined_score(uint64_t entry) const {
    const uint32_t column = rank_tiebreak(entry);
    const float dot = defined_dot(bfloat16_row(block.queries, id), bfloat16_row(block.base, block.base_id(column)),
                                  block.queries.dim);
    return candidate_rank(finish_score(Metric::kCosine, dot, norm, block.base_norms[column]), column);
  }
};

struct ListState {
  uint32_t count;
  uint32_t num_cut;  // entries that an earlier cut has left
  float limit;       // scores below it are out
};

BSE_DEVICE void cut_list(const ListedQuery& query, const CandidateLists& lists, uint64_t* list, ListState& state) {
  if (query.has_conditions()) {
    const float margin = query.is_prefiltered ? lists.margin : 0.0f;
    state.count = filter_list(list, state.num_cut, state.count,
                              [&](const uint64_t& entry) { return query.allows(entry, margin); });
  }
  float limit = state.limit;
  bool has_defined_scores = !query.is_prefiltered;
  while (state.count > lists.max_cut()) {
    const uint64_t bound = find_bound(list, state.count, lists.num_selected, lists.max_cut());
    const float reached = rank_score(bound);  // by num_selected entries
    // Where nothing is approximate later columns lose ties.
    limit = query.is_prefiltered ? reached - lists.margin : from_ordered_bits(ordered_bits(reached) + 1);
    if (has_defined_scores) {
      state.count = filter_list(list, 0, state.count, [&](const uint64_t& entry) { return entry <= bound; });
      break;
    }
    state.count = filter_list(list, 0, state.count, [&](const uint64_t& entry) { return rank_score(entry) >= limit; });
    if (state.count <= lists.room()) break;
    filter_list(list, 0, state.count, [&](uint64_t& entry) {
      entry = query.with_defined_score(entry);
      return true;
    });
    has_defined_scores = true;
  }
  if (limit > state.limit) state.limit = limit;  // not if there is nothing above
  state.num_cut = state.count;
}

}  // namespace bse::cuda

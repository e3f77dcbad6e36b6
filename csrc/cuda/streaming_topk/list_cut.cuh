// Cuts a list of candidates to those that may still be among the best of its row. One warp does it, in place.
//
// If scores are exact, the list is cut by rank. If they are approximate, let e bound their error, and let num_selected
// candidates reach a score T. Their exact scores are at least T - e. So candidates below T - 2 e are not among the
// best. Too many may remain within this margin (ties, clusters of similar rows). Then entries get their exact scores
// and are cut by rank, which leaves few enough. An exact score is an approximate one with error zero, so a list may
// hold both.
//
// The search for T takes 5 to 15 passes over the list, at worst 64.
#pragma once

#include "common/score.h"
#include "cuda/primitives/exact_dot.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"
#include "cuda/streaming_topk/candidate_lists.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

// Keeps the entries of [begin, end) that keep(entry) accepts, in order. keep() may change them. Returns the new end.
template <class Keep>
BSE_DEVICE uint32_t filter_list(uint64_t* list, uint32_t begin, uint32_t end, const Keep& keep) {
  constexpr int kAtOnce = 4;  // independent loads, to hide their latency
  const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
  uint32_t num_kept = begin;
  for (uint32_t first = begin; first < end; first += 32 * kAtOnce) {
    uint64_t entries[kAtOnce];
    BSE_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const uint32_t i = first + 32 * u + lane;
      entries[u] = i < end ? list[i] : 0;
    }
    __syncwarp();  // all lanes have read what others now overwrite
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

// Returns a bound with at least `least` and at most `most` entries <= it; least <= most < count.
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
  // Fewer than `least` entries are <= low, more than `most` are <= high. Ranks are distinct, so the bisection ends.
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

  // position: relative to block.first_row
  BSE_DEVICE ListedQuery(const ScoreBlock& score_block, int64_t position, bool has_approximate_scores)
      : block(score_block),
        row(block.query_row(block.first_row + position)),
        id(block.query_id(row)),
        label(block.selection.labels != nullptr ? block.selection.labels[id] : -1),
        norm(block.query_norms[row]),
        is_prefiltered(has_approximate_scores) {}

  BSE_DEVICE bool has_conditions() const { return block.exclude_self || label >= 0 || block.selection.has_max_score; }

  // Returns whether the candidate may become an edge. margin: twice the error bound of its score.
  BSE_DEVICE bool allows(uint64_t entry, float margin) const {
    const Selection& selection = block.selection;
    const int64_t other = block.base_id(rank_tiebreak(entry));
    if (block.exclude_self && other == id) return false;
    if (label >= 0 && selection.labels[other] == label) return false;
    if (!selection.has_max_score || rank_score(entry) <= selection.max_score - margin) return true;
    return rank_score(margin > 0.0f ? with_exact_score(entry) : entry) <= selection.max_score;
  }

  // Returns the entry with its exact score. Only for rows that can be prefiltered: aligned bfloat16, cosine.
  BSE_DEVICE uint64_t with_exact_score(uint64_t entry) const {
    const uint32_t column = rank_tiebreak(entry);
    const float dot =
        exact_dot(bfloat16_row(block.queries, id), bfloat16_row(block.base, block.base_id(column)), block.queries.dim);
    return candidate_rank(finish_score(Metric::kCosine, dot, norm, block.base_norms[column]), column);
  }
};

struct ListState {
  uint32_t count;
  uint32_t num_cut;  // entries left by an earlier cut, already checked by allows()
  float limit;       // lower scores are not appended
};

BSE_DEVICE void cut_list(const ListedQuery& query, const CandidateLists& lists, uint64_t* list, ListState& state) {
  if (query.has_conditions()) {
    const float margin = query.is_prefiltered ? lists.margin : 0.0f;
    state.count = filter_list(list, state.num_cut, state.count,
                              [&](const uint64_t& entry) { return query.allows(entry, margin); });
  }
  float limit = state.limit;
  bool has_exact_scores = !query.is_prefiltered;
  while (state.count > lists.max_cut()) {
    const uint64_t bound = find_bound(list, state.count, lists.num_selected, lists.max_cut());
    const float reached = rank_score(bound);  // by at least num_selected entries
    // Among exact scores later columns lose ties, so the next greater float is the limit.
    limit = query.is_prefiltered ? reached - lists.margin : from_ordered_bits(ordered_bits(reached) + 1);
    if (has_exact_scores) {
      state.count = filter_list(list, 0, state.count, [&](const uint64_t& entry) { return entry <= bound; });
      break;
    }
    state.count = filter_list(list, 0, state.count, [&](const uint64_t& entry) { return rank_score(entry) >= limit; });
    if (state.count <= lists.room()) break;
    filter_list(list, 0, state.count, [&](uint64_t& entry) {
      entry = query.with_exact_score(entry);
      return true;
    });
    has_exact_scores = true;
  }
  if (limit > state.limit) state.limit = limit;  // not if NaN: nothing is above infinity
  state.num_cut = state.count;
}

}  // namespace bse::cuda

#include "cpu/topk/edge_writer.h"

#include <algorithm>
#include <limits>

#include "cpu/simd/dispatch.h"

namespace bse {

EdgeWriter::EdgeWriter(const Selection& selection, const Edges& edges, int64_t max_edges)
    : selection_(selection), edges_(edges), kernels_(kernel_table()) {
  if (!selection.sort) return;
  ranks_ = AlignedBuffer<uint64_t>(max_edges);
  sorted_ = AlignedBuffer<uint64_t>(max_edges);
  places_ = AlignedBuffer<uint32_t>(max_edges);
}

// Sorts ranks_ into sorted_.
void EdgeWriter::sort(int64_t num_edges) {
  constexpr int64_t kMaxPlaces = 512;  // for longer rows, O(n log n) beats O(n^2) SIMD comparisons
  if (num_edges > kMaxPlaces) {
    std::copy(ranks_.data(), ranks_.data() + num_edges, sorted_.data());
    std::sort(sorted_.data(), sorted_.data() + num_edges);
    return;
  }
  kernels_.find_places(ranks_.data(), num_edges, places_.data());
  for (int64_t n = 0; n < num_edges; ++n) sorted_[places_[n]] = ranks_[n];
}

void EdgeWriter::write(const TopKBuffer& buffer, const int64_t* tiebreak_ids, int64_t result_row) {
  const int64_t num_edges = buffer.size(), num_columns = selection_.num_neighbors;
  const float* kept_scores = buffer.scores();
  const uint32_t* tiebreaks = buffer.tiebreaks();
  int32_t* neighbors = edges_.neighbors + result_row * num_columns;
  float* scores = edges_.scores == nullptr ? nullptr : edges_.scores + result_row * num_columns;
  if (selection_.sort) {
    for (int64_t n = 0; n < num_edges; ++n) {
      ranks_[n] = candidate_rank(kept_scores[n], static_cast<uint32_t>(tiebreak_ids[tiebreaks[n]]));
    }
    sort(num_edges);
    for (int64_t n = 0; n < num_edges; ++n) {
      neighbors[n] = static_cast<int32_t>(rank_tiebreak(sorted_[n]));
      if (scores != nullptr) scores[n] = rank_score(sorted_[n]);
    }
  } else {
    for (int64_t n = 0; n < num_edges; ++n) neighbors[n] = static_cast<int32_t>(tiebreak_ids[tiebreaks[n]]);
    if (scores != nullptr) std::copy(kept_scores, kept_scores + num_edges, scores);
  }
  std::fill(neighbors + num_edges, neighbors + num_columns, -1);
  if (scores != nullptr) {
    std::fill(scores + num_edges, scores + num_columns, -std::numeric_limits<float>::infinity());
  }
}

}  // namespace bse

#include "cpu/topk/edge_writer.h"

#include <algorithm>
#include <limits>

#include "cpu/simd/dispatch.h"

namespace bse {

LinkWriter::LinkWriter(const Selection& selection, const Links& links, int64_t max_links)
    : selection_(selection), links_(links), kernels_(kernel_table()) {
  if (!selection.sort) return;
  ranks_ = AlignedBuffer<uint64_t>(max_links);
  sorted_ = AlignedBuffer<uint64_t>(max_links);
  places_ = AlignedBuffer<uint32_t>(max_links);
}

// ranks_ -> sorted_
void LinkWriter::sort(int64_t num_links) {
  constexpr int64_t kMostPlaces = 512;  // beyond, n log n beats many comparisons at once
  if (num_links > kMostPlaces) {
    std::copy(ranks_.data(), ranks_.data() + num_links, sorted_.data());
    std::sort(sorted_.data(), sorted_.data() + num_links);
    return;
  }
  kernels_.find_places(ranks_.data(), num_links, places_.data());
  for (int64_t n = 0; n < num_links; ++n) sorted_[places_[n]] = ranks_[n];
}

void LinkWriter::write(const TopKBuffer& buffer, const int64_t* tiebreak_ids, int64_t result_row) {
  const int64_t num_links = buffer.size(), num_columns = selection_.num_neighbors;
  const float* kept_scores = buffer.scores();
  const uint32_t* tiebreaks = buffer.tiebreaks();
  int32_t* neighbors = links_.neighbors + result_row * num_columns;
  float* scores = links_.scores == nullptr ? nullptr : links_.scores + result_row * num_columns;
  if (selection_.sort) {
    for (int64_t n = 0; n < num_links; ++n) {
      ranks_[n] = candidate_rank(kept_scores[n], static_cast<uint32_t>(tiebreak_ids[tiebreaks[n]]));
    }
    sort(num_links);
    for (int64_t n = 0; n < num_links; ++n) {
      neighbors[n] = static_cast<int32_t>(rank_tiebreak(sorted_[n]));
      if (scores != nullptr) scores[n] = rank_score(sorted_[n]);
    }
  } else {
    for (int64_t n = 0; n < num_links; ++n) neighbors[n] = static_cast<int32_t>(tiebreak_ids[tiebreaks[n]]);
    if (scores != nullptr) std::copy(kept_scores, kept_scores + num_links, scores);
  }
  std::fill(neighbors + num_links, neighbors + num_columns, -1);
  if (scores != nullptr) {
    std::fill(scores + num_links, scores + num_columns, -std::numeric_limits<float>::infinity());
  }
}

}  // namespace bse

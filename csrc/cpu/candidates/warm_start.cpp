#include "cpu/candidates/warm_start.h"

#include <algorithm>

#include "common/draw.h"
#include "cpu/simd/buffered_words.h"

namespace bse {

void WarmStart::choose(int64_t row, int64_t instance, const uint32_t* drawn, uint32_t* rows) {
  row_ = row;
  rows_ = rows;
  num_chosen_ = 0;
  chosen_.clear();
  const int64_t previous = previous_row(instance);
  const uint32_t degree = previous < 0 ? 0 : request_.previous.degree(previous);
  if (degree > 0) {
    offer_neighbors(previous, degree);
    offer_neighbors_of_neighbors(previous, degree);
  }
  for (int64_t c = 0; num_chosen_ < request_.num_candidates; ++c) offer_row(other_row(drawn[c], row));
}

// Instances that have left the pool are no candidates.
void WarmStart::offer(int32_t instance) {
  const int32_t row = request_.pool_row_of != nullptr ? request_.pool_row_of[instance] : instance;
  if (row >= 0 && row != row_) offer_row(static_cast<uint32_t>(row));
}

void WarmStart::offer_neighbors(int64_t previous_row, uint32_t degree) {
  const GraphView& graph = request_.previous;
  const int32_t* ids = graph.neighbors + previous_row * graph.num_neighbors;
  for (uint32_t i = 0; i < degree && num_chosen_ < request_.num_candidates / 2; ++i) {
    offer(graph.checked_id(ids[i], previous_row));
  }
}

// One try for every second place left. All addresses are known before the first is read.
void WarmStart::offer_neighbors_of_neighbors(int64_t previous_row, uint32_t degree) {
  const GraphView& graph = request_.previous;
  const int32_t* ids = graph.neighbors + previous_row * graph.num_neighbors;
  BufferedWordStream words(request_.seed, Purpose::kWarmStart, 0, static_cast<uint32_t>(row_), 0);
  const int64_t num_tries = (request_.num_candidates - num_chosen_) / 2;
  int64_t num_ahead = 0;
  for (int64_t i = 0; i < num_tries; ++i) {
    const uint32_t first = words.next(), second = words.next();
    const int64_t via = this->previous_row(graph.checked_id(ids[mulhi(first, degree)], previous_row));
    const uint32_t via_degree = via < 0 ? 0 : graph.degree(via);
    if (via_degree == 0) continue;
    ahead_[num_ahead] = graph.neighbors + via * graph.num_neighbors + mulhi(second, via_degree);
    __builtin_prefetch(ahead_[num_ahead++]);
  }
  for (int64_t i = 0; i < num_ahead; ++i) offer(graph.checked_id(*ahead_[i], previous_row));
}

}  // namespace bse

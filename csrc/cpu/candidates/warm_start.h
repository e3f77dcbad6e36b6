// Candidates that a previous graph suggests for a row of the pool: its neighbours, and some neighbours of theirs, as in
// NN-descent (Dong, Moses, Li: Efficient k-nearest neighbor graph construction for generic similarity measures, WWW
// 2011). reference.py, warm_candidates(), is the definition.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runtime/index_table.h"
#include "cpu/search/requests.h"

namespace bse {

// One thread's.
class WarmStart {
 public:
  explicit WarmStart(const ProximityGraphRequest& request)
      : request_(request), chosen_(request.num_candidates), ahead_(static_cast<size_t>(request.num_candidates)) {}

  static int64_t bytes(int64_t num_candidates) { return IndexTable::bytes(num_candidates) + 8 * num_candidates; }

  // The M candidates of a row: suggestions first, then what of its own draw is not among them.
  // instance: of the row; drawn: [M] numbers of other rows; rows: [M], rows of the pool
  void choose(int64_t row, int64_t instance, const uint32_t* drawn, uint32_t* rows);

 private:
  int64_t previous_row(int64_t instance) const {
    return request_.previous.row_of != nullptr ? request_.previous.row_of[instance] : instance;
  }
  void offer(int32_t instance);
  void offer_row(uint32_t row) {
    if (chosen_.insert(row)) rows_[num_chosen_++] = row;
  }
  void offer_neighbors(int64_t previous_row, uint32_t degree);
  void offer_neighbors_of_neighbors(int64_t previous_row, uint32_t degree);

  const ProximityGraphRequest& request_;
  IndexTable chosen_;
  std::vector<const int32_t*> ahead_;  // ids on their way
  int64_t row_ = 0, num_chosen_ = 0;
  uint32_t* rows_ = nullptr;
};

}  // namespace bse

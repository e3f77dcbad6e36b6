// The candidates of rows that a previous graph makes suggestions for, in the order of csrc/cpu/candidates/warm_start.h:
// a row's neighbours in it, some neighbours of theirs, then what of its own draw is not among them. A block a row.
//
// All three are parts of one sequence of which the first M distinct rows are taken; each element is a function of its
// position (tries take their words from a Philox block by number), so threads offer them side by side to the list of
// distinct values. O(M) work a row, one dependent read of the table for a neighbour, two for a neighbour's neighbour.
#pragma once

#include "cuda/candidates/warm_start.h"
#include "cuda/primitives/distinct_list.cuh"
#include "cuda/primitives/graph_view.cuh"

namespace bse::cuda {

constexpr int kWarmThreads = 256;

struct WarmSetting {
  WarmRequest request;
  uint32_t num_slots;    // of a hash table
  bool table_is_shared;  // in shared memory, else in `tables`
};

class WarmRow {
 public:
  BSE_DEVICE WarmRow(const WarmRequest& request, int64_t row, DistinctList& list, uint32_t* chosen, uint64_t* status)
      : request_(request), previous_(request.previous), row_(row), list_(list), chosen_(chosen), status_(status) {}

  // drawn: [M] the row's own draw, of other rows
  BSE_DEVICE void choose(const uint32_t* drawn) {
    const auto num_candidates = static_cast<uint32_t>(request_.num_candidates);
    list_.clear();
    const int64_t own = previous_row(request_.rows != nullptr ? request_.rows[row_] : row_);
    const uint32_t degree = own < 0 ? 0 : degree_of(previous_, static_cast<uint32_t>(own));
    if (degree > 0) {
      offer_neighbors(own, degree);
      offer_neighbors_of_neighbors(own, degree);
    }
    for (uint32_t first = 0; list_.size() < num_candidates; first += kWarmThreads) {
      const uint32_t i = first + threadIdx.x;
      append(i < num_candidates ? static_cast<int64_t>(drawn[i]) : -1, num_candidates);
    }
  }

 private:
  // The row of the previous graph, -1 where the instance has none.
  BSE_DEVICE int64_t previous_row(int64_t instance) const {
    const int64_t found = previous_.row_of != nullptr ? __ldg(previous_.row_of + instance) : instance;
    return found < previous_.num_rows ? found : -1;
  }

  // -1 for what is no instance: the table has changed since it was checked.
  BSE_DEVICE int64_t neighbor(int64_t row, uint32_t i) const {
    const int32_t id = __ldg(previous_.neighbors + row * previous_.num_neighbors + i);
    if (static_cast<uint32_t>(id) < static_cast<uint32_t>(previous_.num_nodes)) return id;
    report(status_, StatusKind::kNeighborNotARow, static_cast<uint32_t>(row), static_cast<uint32_t>(id));
    return -1;
  }

  // The row of the pool; instances that have left it are no candidates, nor is the row itself.
  BSE_DEVICE int64_t pool_row(int64_t instance) const {
    if (instance < 0) return -1;
    const int64_t found = request_.pool_row_of != nullptr ? __ldg(request_.pool_row_of + instance) : instance;
    return found == row_ ? -1 : found;
  }

  // All threads call it; a negative row is no offer.
  BSE_DEVICE void append(int64_t row, uint32_t limit) {
    const uint32_t offer[1] = {static_cast<uint32_t>(row)};
    list_.append(offer, row >= 0 ? 1u : 0u, limit);
  }

  BSE_DEVICE void offer_neighbors(int64_t own, uint32_t degree) {
    const auto limit = static_cast<uint32_t>(request_.num_candidates / 2);
    for (uint32_t first = 0; first < degree && list_.size() < limit; first += kWarmThreads) {
      const uint32_t i = first + threadIdx.x;
      append(i < degree ? pool_row(neighbor(own, i)) : -1, limit);
    }
    // What did not fit may come again.
    __syncthreads();
    const uint32_t size = list_.size();
    list_.clear();
    for (uint32_t first = 0; first < size; first += kWarmThreads) {
      const uint32_t i = first + threadIdx.x;
      append(i < size ? static_cast<int64_t>(chosen_[i]) : -1, size);
    }
  }

  BSE_DEVICE void offer_neighbors_of_neighbors(int64_t own, uint32_t degree) {
    const auto num_candidates = static_cast<uint32_t>(request_.num_candidates);
    const uint32_t num_tries = (num_candidates - list_.size()) / 2;
    for (uint32_t first = 0; first < num_tries; first += kWarmThreads) {
      const uint32_t i = first + threadIdx.x;
      append(i < num_tries ? pool_row(drawn_neighbor(own, degree, i)) : -1, num_candidates);
    }
  }

  // The instance that a try comes to: a drawn neighbour of a drawn neighbour, -1 if that has none.
  BSE_DEVICE int64_t drawn_neighbor(int64_t own, uint32_t degree, uint32_t number) const {
    const uint32_t tag = stream_tag(Purpose::kWarmStart, 0);
    const PhiloxBlock words = philox4x32(request_.seed, tag, static_cast<uint32_t>(row_), 0, number / 2);
    const bool is_odd = number % 2 != 0;
    const int64_t instance = neighbor(own, mulhi(is_odd ? words.word[2] : words.word[0], degree));
    const int64_t via = instance < 0 ? -1 : previous_row(instance);
    const uint32_t via_degree = via < 0 ? 0 : degree_of(previous_, static_cast<uint32_t>(via));
    return via_degree == 0 ? -1 : neighbor(via, mulhi(is_odd ? words.word[3] : words.word[1], via_degree));
  }

  const WarmRequest& request_;
  const GraphView& previous_;
  const int64_t row_;
  DistinctList& list_;
  uint32_t* const chosen_;  // [M], which the list fills
  uint64_t* const status_;
};

// drawn: [num_rows, drawn_stride], own draws of the rows from first_row on      chosen: [num_rows, M] rows of the pool
// tables: [gridDim.x, num_slots] or null      status: [kNumStatusWords]
__global__ void __launch_bounds__(kWarmThreads, 1)
    warm_start_kernel(const WarmSetting setting, int64_t first_row, int64_t num_rows, const uint32_t* drawn,
                      int64_t drawn_stride, uint32_t* chosen, uint64_t* tables, uint64_t* status) {
  BSE_SHARED(uint32_t, sums, [kWarmThreads / 32 + 1]);
  device::SharedMemory shared;
  uint64_t* const table = setting.table_is_shared ? shared.take<uint64_t>(setting.num_slots)
                                                  : tables + size_t{blockIdx.x} * setting.num_slots;
  for (int64_t r = blockIdx.x; r < num_rows; r += gridDim.x) {
    uint32_t* const out = chosen + r * setting.request.num_candidates;
    DistinctList list(table, setting.num_slots, sums, out);
    WarmRow(setting.request, first_row + r, list, out, status).choose(drawn + r * drawn_stride);
    __syncthreads();  // the next row reuses the table
  }
}

}  // namespace bse::cuda

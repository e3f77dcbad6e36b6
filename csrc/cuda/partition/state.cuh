// The state of a partition in device memory, and lists of rows.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"
#include "cuda/primitives/block_scan.cuh"
#include "cuda/primitives/graph_view.cuh"
#include "cuda/primitives/grouping.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// Counters in device memory, 64 bits each, which the host can read.
enum Counter : int {
  kNumListed0,  // rows in each of the two lists
  kNumListed1,
  kNumVoters,      // rows that may propose in a round
  kNumGrouped,     // members of the last grouping
  kNumCandidates,  // batches that may be seeded
  kNumInside,      // edge share: neighbors in the same batch
  kNumAsked,       // edge share: neighbors counted
  kNumFilled,      // random fills
  kNumRows,        // R
  kNumBatches,
  kNumFullBatches,
  kNumCounters
};

struct PartitionState {
  GraphView graph;
  PartitionSizes sizes;
  uint64_t seed;
  uint32_t epoch, restart_threshold;
  uint32_t* order;       // [R] keyed permutation: roots first, rows left out by drop_last at the end
  int32_t* owner;        // [R] batch, kUnassigned or kLeftOut
  int32_t* former;       // [R] batch that the row left last
  uint8_t* is_stranded;  // [R] 1 if the row's last vote found no batch with room
  uint8_t* is_filled;    // [R] 1 if the row was placed by random fill
  uint32_t* num_free;    // [num_batches] free places
  uint64_t* claims;      // [R] smallest claim of a seed walk; kNoClaim while no seed walks run
  Groups groups;         // up to R items and max_partition_groups() groups
  uint64_t* counters;    // [kNumCounters]
  uint64_t* status;      // [kNumStatusWords]
};

constexpr uint64_t kNoClaim = ~uint64_t{0};

// A list of rows. Its order differs from run to run, and no result depends on it.
struct RowList {
  uint32_t* rows;      // [R], or null for all rows
  uint64_t* num_rows;  // a counter
};

BSE_DEVICE int64_t num_rows_of(const RowList& list) { return static_cast<int64_t>(*list.num_rows); }

BSE_DEVICE uint32_t row_at(const RowList& list, int64_t i) {
  return list.rows != nullptr ? list.rows[i] : static_cast<uint32_t>(i);
}

constexpr unsigned kListThreads = 128;

// Appends `row` of each thread with has_row. All threads of the block call it together.
// warp_sums: [kListThreads / 32 + 1] in shared memory      begin: in shared memory
BSE_DEVICE void append(bool has_row, uint32_t row, const RowList& list, uint32_t* warp_sums, uint64_t* begin) {
  uint32_t total;
  const uint32_t place = exclusive_sum(has_row ? 1 : 0, warp_sums, &total);
  if (threadIdx.x == 0 && total > 0) *begin = atomicAdd(list.num_rows, uint64_t{total});
  __syncthreads();
  if (has_row) list.rows[*begin + place] = row;
}

// Calls body(i, &row) for each i < num_items, and appends the rows for which it returns true. All threads of the block
// call append_if together.
template <class Body>
BSE_DEVICE void append_if(int64_t num_items, const RowList& list, const Body& body) {
  BSE_SHARED(uint32_t, warp_sums, [kListThreads / 32 + 1]);
  BSE_SHARED(uint64_t, begin);
  for (int64_t tile = int64_t{blockIdx.x} * kListThreads; tile < num_items; tile += num_threads()) {
    const int64_t i = tile + threadIdx.x;
    uint32_t row = 0;
    const bool has_row = i < num_items && body(i, &row);
    append(has_row, row, list, warp_sums, &begin);
  }
}

}  // namespace bse::cuda

// Candidates from a previous graph: what csrc/cpu/candidates/warm_start.h is on the CPU, with the same candidates.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"
#include "cuda/runtime/scratch.h"
#include "cuda/types/graph_view.h"

namespace bse::cuda {

struct WarmRequest {
  GraphView previous;  // neighbors null: there is none
  const int32_t* pool_row_of =
      nullptr;                    // [num_nodes] row of an instance in the pool or -1, or null: row i is instance i
  const int64_t* rows = nullptr;  // [pool rows] their instances, or null
  int64_t num_candidates = 0;     // M
  uint64_t seed = 0;
};

class WarmStart {
 public:
  WarmStart(const WarmRequest& request, int64_t rows_at_once, Scratch& scratch);

  // Queues the choice for the rows [first_row, first_row + num_rows) of the pool. A neighbour that is no instance is
  // reported and left out.      drawn: [num_rows, drawn_stride], their own draws; returns [num_rows, M] in scratch
  const uint32_t* launch(int64_t first_row, int64_t num_rows, const uint32_t* drawn, int64_t drawn_stride,
                         uint64_t* status, device::Stream stream) const;

 private:
  WarmRequest request_;
  uint32_t num_slots_;
  bool table_is_shared_;
  int64_t num_blocks_;
  uint64_t* tables_ = nullptr;
  uint32_t* chosen_;
};

}  // namespace bse::cuda

// One mini-batch that a warp collects: distinct rows in the order in which they are found, 32 offered rows at a time.
//
// Members are kept in an open-addressing hash table at load <= 1/2, filled by compare and swap. Of equal offered rows,
// only the lowest lane looks up and inserts, so the order in which lanes insert does not matter. The table may hold up
// to 31 rows more than the batch: those offered together with the row that filled it. It is not read after that.
#pragma once

#include <cstdint>

#include "common/permutation.h"
#include "common/random_stream.h"
#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

// log2 of the number of slots, which is at least 2 * capacity and at least capacity + 31.
inline int member_table_log_slots(int64_t capacity) {
  int log_slots = 6;
  while ((int64_t{1} << log_slots) < 2 * capacity) ++log_slots;
  return log_slots;
}

// Each lane has a copy. Only lane_ differs between them.
class WarpBatch {
 public:
  // slots: [2^log_slots], of this warp alone
  BSE_DEVICE WarpBatch(uint32_t* slots, int log_slots, uint32_t target)
      : slots_(slots), log_slots_(log_slots), target_(target), lane_(threadIdx.x % 32) {}

  // Begins an empty batch. nodes: [target], written as rows are added
  BSE_DEVICE void begin(int32_t* nodes) {
    nodes_ = nodes;
    size_ = 0;
    __syncwarp();  // the last inserts of the previous batch are done
    for (uint64_t slot = lane_; slot <= last_slot(); slot += 32) slots_[slot] = kAbsent;
    __syncwarp();
  }

  // Adds the rows of the lanes in lane order, without members and repetitions, until the batch is full. Returns the
  // lanes whose rows were added. If the batch is full now, the last of these filled it. All lanes call it together.
  BSE_DEVICE unsigned add(bool has_row, uint32_t row) {
    const unsigned candidates = __ballot_sync(kAllLanes, has_row);
    bool is_new = false;
    if (has_row) {
      const unsigned equal = __match_any_sync(candidates, row);
      is_new = (equal & lower_lanes()) == 0 && insert(row);
    }
    const uint32_t place = size_ + static_cast<uint32_t>(__popc(__ballot_sync(kAllLanes, is_new) & lower_lanes()));
    is_new = is_new && place < target_;
    if (is_new) nodes_[place] = static_cast<int32_t>(row);
    const unsigned added = __ballot_sync(kAllLanes, is_new);
    size_ += static_cast<uint32_t>(__popc(added));
    return added;
  }

  // Random fill: adds rows in the order of the walk's keyed permutation until the batch is full. Returns their number.
  BSE_DEVICE uint32_t fill(uint32_t num_rows, uint64_t seed, uint32_t epoch, uint32_t walk) {
    const uint32_t num_added = num_missing();
    if (num_added == 0) return 0;
    const KeyedPermutation permutation(num_rows, seed, Purpose::kFill, epoch, walk);
    for (uint32_t position = lane_; !full(); position += 32) {
      const bool is_row = position < num_rows;
      add(is_row, is_row ? permutation(position) : 0);
    }
    return num_added;
  }

  BSE_DEVICE bool full() const { return size_ == target_; }
  BSE_DEVICE uint32_t num_missing() const { return target_ - size_; }

 private:
  static constexpr uint32_t kAbsent = 0xFFFFFFFFu;

  BSE_DEVICE unsigned lower_lanes() const { return (1u << lane_) - 1; }
  BSE_DEVICE uint32_t last_slot() const { return 0xFFFFFFFFu >> (32 - log_slots_); }

  BSE_DEVICE uint32_t first_slot(uint32_t row) const { return (row * 2654435761u) >> (32 - log_slots_); }

  // Inserts the row. Returns false if it is in the table already.
  BSE_DEVICE bool insert(uint32_t row) {
    for (uint32_t slot = first_slot(row);; slot = (slot + 1) & last_slot()) {
      const uint32_t found = atomicCAS(&slots_[slot], kAbsent, row);
      if (found == kAbsent) return true;
      if (found == row) return false;
    }
  }

  uint32_t* const slots_;
  const int log_slots_;
  const uint32_t target_;
  const uint32_t lane_;
  int32_t* nodes_ = nullptr;
  uint32_t size_ = 0;
};

}  // namespace bse::cuda

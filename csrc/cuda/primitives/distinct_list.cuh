// A list of distinct values in the order in which they were first offered. All threads of a block append together.
//
// A hash table holds value << 32 | position. Equal values of one append are resolved by atomicMin of the position, and
// earlier appends have smaller positions. So the list equals that of a serial loop, whatever the schedule.
#pragma once

#include "common/hash.h"
#include "cuda/primitives/block_scan.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

class DistinctList {
 public:
  static constexpr uint64_t kFree = ~uint64_t{0};

  // Slots of the table for a list of `length` to which each append offers up to `num_offered` values: a power of two,
  // at load <= 1/2.
  static __host__ __device__ uint32_t num_slots(uint32_t length, uint32_t num_offered) {
    uint64_t slots = 64;
    while (slots < 2 * (uint64_t{length} + num_offered)) slots *= 2;
    return static_cast<uint32_t>(slots);
  }

  // table: [num_slots], a power of two      sums: as in exclusive_sum()      values: [limit]
  BSE_DEVICE DistinctList(uint64_t* table, uint32_t num_slots, uint32_t* sums, uint32_t* values)
      : table_(table), mask_(num_slots - 1), sums_(sums), values_(values) {}

  BSE_DEVICE void clear() {
    for (uint32_t slot = threadIdx.x; slot <= mask_; slot += blockDim.x) table_[slot] = kFree;
    size_ = position_ = 0;
    __syncthreads();
  }

  // Appends the values that are not in the list yet, up to a list of `limit` values. Thread t offers kItems values,
  // which come after those of thread t - 1. offer[i] is ignored if bit i of `offered` is 0.
  template <int kItems>
  BSE_DEVICE void append(const uint32_t (&offer)[kItems], unsigned offered, uint32_t limit) {
    uint32_t slots[kItems];
    const uint32_t first = position_ + threadIdx.x * kItems;
    for (int i = 0; i < kItems; ++i) slots[i] = (offered >> i & 1) != 0 ? insert(offer[i], first + i) : 0;
    __syncthreads();
    unsigned is_new = 0;
    for (int i = 0; i < kItems; ++i) {
      const bool wins = (offered >> i & 1) != 0 && static_cast<uint32_t>(table_[slots[i]]) == first + i;
      is_new |= unsigned{wins} << i;
    }
    uint32_t total;
    uint32_t place = size_ + exclusive_sum(__popc(is_new), sums_, &total);
    for (int i = 0; i < kItems; ++i) {
      if ((is_new >> i & 1) == 0) continue;
      if (place < limit) values_[place] = offer[i];
      ++place;
    }
    size_ = size_ + total < limit ? size_ + total : limit;
    position_ += blockDim.x * kItems;
  }

  BSE_DEVICE uint32_t size() const { return size_; }

 private:
  // Returns the slot of the value. The slot keeps the smallest position at which the value was offered.
  BSE_DEVICE uint32_t insert(uint32_t value, uint32_t position) {
    const uint64_t entry = uint64_t{value} << 32 | position;
    for (uint32_t slot = mix32(value) & mask_;; slot = (slot + 1) & mask_) {
      const uint64_t held = atomicCAS(&table_[slot], kFree, entry);
      if (held == kFree) return slot;
      if (held >> 32 == value) {
        atomicMin(&table_[slot], entry);
        return slot;
      }
    }
  }

  uint64_t* table_;
  uint32_t mask_;
  uint32_t* sums_;
  uint32_t* values_;
  uint32_t size_ = 0, position_ = 0;
};

}  // namespace bse::cuda

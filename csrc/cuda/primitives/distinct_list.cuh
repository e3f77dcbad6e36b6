// A list of distinct values, appended to by a whole block at a time: the first of equal values stays, in order.
//
// A hash table holds (value << 32 | position); equal values of one append compete by atomicMin of the position, and
// those of earlier appends have smaller positions. So the list is what a serial loop would make, whatever the schedule.
#pragma once

#include "common/hash.h"
#include "cuda/primitives/block_scan.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

class DistinctList {
 public:
  static constexpr uint64_t kFree = ~uint64_t{0};

  // Slots for a list of `length` that is appended to by up to `num_offered` values at a time.
  static __host__ __device__ uint32_t num_slots(uint32_t length, uint32_t num_offered) {
    uint64_t slots = 64;
    while (slots < 2 * (uint64_t{length} + num_offered)) slots *= 2;
    return static_cast<uint32_t>(slots);
  }

  // table: [num_slots], a power of two; sums: as exclusive_sum(); values: [limit]
  BSE_DEVICE DistinctList(uint64_t* table, uint32_t num_slots, uint32_t* sums, uint32_t* values)
      : table_(table), mask_(num_slots - 1), sums_(sums), values_(values) {}

  BSE_DEVICE void clear() {
    for (uint32_t slot = threadIdx.x; slot <= mask_; slot += blockDim.x) table_[slot] = kFree;
    size_ = position_ = 0;
    __syncthreads();
  }

  // Appends what is new, up to `limit` values in all. Thread t offers kItems values, after those of thread t - 1; those
  // whose bit in `offered` is 0 are none.
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
  // Slot of the value, which then holds the least position it was offered at.
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

// A set of columns of one row, spread over a warp: bit b of part p of lane l stands for column 1024 p + 32 l + b.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

template <int kParts>
struct ColumnSet {
  uint32_t bits[kParts];  // of this lane

  BSE_DEVICE static ColumnSet all() {
    ColumnSet result;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) result.bits[p] = ~0u;
    return result;
  }

  // All lanes call the following together.

  BSE_DEVICE uint32_t size() const {
    uint32_t own = 0;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) own += __popc(bits[p]);
    return __reduce_add_sync(kAllLanes, own);
  }

  // Calls keeps(place, column) for each column and removes the columns for which it returns false. `place` is the
  // position of the column in ascending order over all lanes. Returns the number of columns before removal.
  template <class Keeps>
  BSE_DEVICE uint32_t retain(const Keeps& keeps) {
    const unsigned lane = threadIdx.x % 32;
    uint32_t begin = 0;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      const uint32_t own = __popc(bits[p]);
      uint32_t place = begin + lanes_before(own);
      begin = __shfl_sync(kAllLanes, place + own, 31);
      for (uint32_t left = bits[p]; left != 0; left &= left - 1) {
        const int b = __ffs(static_cast<int>(left)) - 1;
        if (!keeps(place++, static_cast<uint32_t>(1024 * p) + 32 * lane + b)) bits[p] &= ~(1u << b);
      }
    }
    return begin;
  }

  template <class Visit>
  BSE_DEVICE uint32_t for_each(const Visit& visit) const {
    ColumnSet copy = *this;
    return copy.retain([&](uint32_t place, uint32_t column) {
      visit(place, column);
      return true;
    });
  }

  // Each lane computes its own bits of the following.

  BSE_DEVICE ColumnSet without(const ColumnSet& other) const {
    ColumnSet result;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) result.bits[p] = bits[p] & ~other.bits[p];
    return result;
  }

  BSE_DEVICE ColumnSet with(const ColumnSet& other) const {
    ColumnSet result;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) result.bits[p] = bits[p] | other.bits[p];
    return result;
  }
};

}  // namespace bse::cuda

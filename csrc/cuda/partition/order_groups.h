// Groups to sort by (grouping.cuh): they ascend with the key and are small.
//
// Hashes are uniform, so groups of their upper bits are small. Batches of equal emptiness and rows of a batch may be
// many: their groups are cut by number. Rows of a large batch that are next to each other share a group all the same;
// it costs time only.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// Items of a group, about. Small ones cost scanning, large ones comparing.
constexpr int64_t kSortedGroupSize = 16;

// Hashes are grouped by their upper `log_groups` bits, of which there is at least one.
inline int hash_log_groups(int64_t num_items) {
  int log_groups = 1;
  while (kSortedGroupSize << (log_groups + 1) <= num_items) ++log_groups;
  return log_groups;
}

// Batches, by free places descending and number ascending; groups of equal places are cut by number.
struct EmptinessGroups {
  int64_t max_free, num_cuts;

  explicit EmptinessGroups(const PartitionSizes& sizes)
      : max_free(sizes.num_batches > 0 ? sizes.capacity(0) : 0),
        num_cuts((sizes.num_batches + kSortedGroupSize - 1) / kSortedGroupSize) {}
  int64_t num_groups() const { return (max_free + 1) * num_cuts; }
  BSE_DEVICE uint32_t group(int64_t batch, int64_t num_free) const {
    return static_cast<uint32_t>((max_free - num_free) * num_cuts + batch / kSortedGroupSize);
  }
};

// Rows, by batch and number; batches are cut by number.
struct BatchGroups {
  int64_t num_rows, num_batches, num_cuts;

  explicit BatchGroups(const PartitionSizes& sizes)
      : num_rows(sizes.num_rows),
        num_batches(sizes.num_batches),
        num_cuts(sizes.num_batches > 0 ? (sizes.capacity(0) + kSortedGroupSize - 1) / kSortedGroupSize : 0) {}
  int64_t num_groups() const { return num_batches * num_cuts; }
  BSE_DEVICE uint32_t group(int64_t row, int64_t batch) const {
    return static_cast<uint32_t>(batch * num_cuts + row * num_cuts / num_rows);
  }
};

}  // namespace bse::cuda

// Groups for sorting (grouping.cuh): they ascend with the key and are small.
//
// Hashes are uniform, so grouping by their upper bits gives small groups. Many batches may be equally empty, and
// batches may have many rows, so these groups are divided by ranges of batch or row numbers. If a large batch has many
// rows with close numbers, they still share a group. That costs only time.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

// Approximate number of items in a group. Smaller groups cost more scanning, larger groups more comparisons.
constexpr int64_t kSortedGroupSize = 16;

// Returns the number of upper bits, at least one, by which num_items hashes are grouped.
inline int hash_log_groups(int64_t num_items) {
  int log_groups = 1;
  while (kSortedGroupSize << (log_groups + 1) <= num_items) ++log_groups;
  return log_groups;
}

// Groups of batches in the order (free places descending, number ascending). Batches with equally many free places are
// divided by number.
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

// Groups of rows in the order (batch, row). The rows of a batch are divided by number.
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

// A mini-batch under construction: distinct rows in the order they were found.
#pragma once

#include <cstdint>

#include "common/permutation.h"
#include "common/random_stream.h"
#include "cpu/runtime/index_table.h"
#include "cpu/walk/batch_walks.h"

namespace bse {

class Batch {
 public:
  explicit Batch(int64_t capacity) : members_(capacity) {}

  static int64_t bytes(int64_t capacity) { return IndexTable::bytes(capacity); }

  // Starts a batch of up to `target` rows. nodes: [target], written as rows are added
  void begin(int32_t* nodes, int64_t target) {
    members_.clear();
    nodes_ = nodes;
    size_ = 0;
    target_ = target;
  }
  // Adds a row. Returns false if it is already a member or the batch is full.
  bool add(uint32_t row) {
    if (full() || !members_.insert(row)) return false;
    nodes_[size_++] = static_cast<int32_t>(row);
    return true;
  }
  // Adds random fills in the order of a keyed permutation until the batch is full. Returns how many.
  int64_t fill(const WalkRequest& request, uint32_t walk) {
    if (full()) return 0;
    const auto num_rows = static_cast<uint32_t>(request.graph.num_rows);
    const KeyedPermutation permutation(num_rows, request.seed, Purpose::kFill, request.epoch, walk);
    int64_t num_added = 0;
    for (uint32_t i = 0; i < num_rows && !full(); ++i) num_added += add(permutation(i));
    return num_added;
  }
  bool full() const { return size_ == target_; }
  int64_t size() const { return size_; }
  uint32_t operator[](int64_t i) const { return static_cast<uint32_t>(nodes_[i]); }

 private:
  IndexTable members_;
  int32_t* nodes_ = nullptr;
  int64_t size_ = 0, target_ = 0;
};

}  // namespace bse

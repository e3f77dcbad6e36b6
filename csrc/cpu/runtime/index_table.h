// Open-addressing hash table from small unsigned integers to unsigned integers, reused from one batch to the next.
//
// Sized once for a number of entries at load <= 1/4, so that probes seldom collide; clear() costs its size. Keys must
// be below 2^32 - 1.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace bse {

class IndexTable {
 public:
  static constexpr uint32_t kAbsent = 0xFFFFFFFFu;

  explicit IndexTable(int64_t max_entries) {
    while ((int64_t{1} << bits_) < 4 * max_entries) ++bits_;
    keys_.assign(size_t{1} << bits_, kAbsent);
  }

  static int64_t bytes(int64_t max_entries) { return 4 * 8 * std::max<int64_t>(max_entries, 16); }

  void clear() { std::fill(keys_.begin(), keys_.end(), kAbsent); }

  // Adds a key; false if it was there.
  bool insert(uint32_t key) {
    const uint32_t slot = find(key);
    if (keys_[slot] == key) return false;
    keys_[slot] = key;
    return true;
  }

  bool contains(uint32_t key) const { return keys_[find(key)] == key; }

  // The slot that holds the key or would hold it: an index below num_slots() for values kept beside the table.
  uint32_t find(uint32_t key) const {
    const uint32_t mask = static_cast<uint32_t>(keys_.size()) - 1;
    uint32_t slot = (key * 2654435761u) >> (32 - bits_);
    while (keys_[slot] != key && keys_[slot] != kAbsent) slot = (slot + 1) & mask;
    return slot;
  }

  size_t num_slots() const { return keys_.size(); }

 private:
  int bits_ = 4;
  std::vector<uint32_t> keys_;
};

}  // namespace bse

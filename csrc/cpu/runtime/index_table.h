// Open-addressing hash set of uint32 keys below 2^32 - 1, reused from one batch to the next.
//
// Callers may keep values beside it, indexed by slot. The table is sized once, for a load of at most 1/4, so that
// probes seldom collide. clear() takes time proportional to its size.
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

  // Adds a key. Returns false if the table already holds it.
  bool insert(uint32_t key) {
    const uint32_t slot = find(key);
    if (keys_[slot] == key) return false;
    keys_[slot] = key;
    return true;
  }

  bool contains(uint32_t key) const { return keys_[find(key)] == key; }

  // Returns the slot that holds the key or would hold it, below num_slots().
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

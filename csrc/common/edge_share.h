// Edge share of mini-batches: the share of their members' out-neighbors that are in the same batch.
//
// It measures hardness without features. It is computed in integers, because a partition branches on it and must come
// out the same on every machine.
#pragma once

#include <cstdint>

namespace bse {

class EdgeShare {
 public:
  static constexpr int64_t kWhole = int64_t{1} << 20;  // a share of 1

  // Counts one member: num_inside of its num_asked neighbors are in its batch.
  void add(uint32_t num_inside, uint32_t num_asked) {
    num_inside_ += num_inside;
    num_asked_ += num_asked;
  }

  // Returns the edge share less that of a uniformly random batch, in units of 1 / kWhole; 0 if it is lower.
  int64_t beyond_random(int64_t batch_size, int64_t num_rows) const {
    if (num_asked_ == 0) return 0;
    const int64_t share = kWhole * num_inside_ / num_asked_ - kWhole * batch_size / num_rows;
    return share > 0 ? share : 0;
  }

 private:
  int64_t num_inside_ = 0, num_asked_ = 0;
};

}  // namespace bse

// How linked a mini-batch is: the share of its members' out-neighbors that are members too.
//
// A measure of hardness that needs no features. Integers: the result decides what a partition does, on every machine.
#pragma once

#include <cstdint>

namespace bse {

class EdgeShare {
 public:
  static constexpr int64_t kWhole = int64_t{1} << 20;  // a share of one

  void add(uint32_t num_inside, uint32_t num_asked) {
    num_inside_ += num_inside;
    num_asked_ += num_asked;
  }

  // In units of 1 / kWhole, beyond that of a batch drawn at random; 0 if it is not.
  int64_t beyond_random(int64_t batch_size, int64_t num_rows) const {
    if (num_asked_ == 0) return 0;
    const int64_t share = kWhole * num_inside_ / num_asked_ - kWhole * batch_size / num_rows;
    return share > 0 ? share : 0;
  }

 private:
  int64_t num_inside_ = 0, num_asked_ = 0;
};

}  // namespace bse

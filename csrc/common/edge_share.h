// Edge share of mini-batches: of all out-neighbors of their members, the share that is in the member's own batch.
//
// The excess edge share is the edge share minus the share expected in a random batch, batch size / number of rows. It
// measures hardness without features, and a partition moves it to a goal (partition_schedule.h). All is computed in
// integers, because a partition branches on it and must come out the same on every machine.
// batchsampler_ext/metrics.py measures another share: of the ordered pairs of members, those that an edge joins.
#pragma once

#include <cstdint>

namespace bse {

class EdgeShare {
 public:
  static constexpr int64_t kWhole = int64_t{1} << 20;  // a share of 1

  // Counts one member. num_asked: number of its neighbors that are looked at; num_inside: those in its batch
  void add(uint32_t num_inside, uint32_t num_asked) {
    num_inside_ += num_inside;
    num_asked_ += num_asked;
  }

  // Returns the excess edge share in units of 1 / kWhole, or 0 if it is negative.
  int64_t beyond_random(int64_t batch_size, int64_t num_rows) const {
    if (num_asked_ == 0) return 0;
    const int64_t share = kWhole * num_inside_ / num_asked_ - kWhole * batch_size / num_rows;
    return share > 0 ? share : 0;
  }

 private:
  int64_t num_inside_ = 0, num_asked_ = 0;
};

}  // namespace bse

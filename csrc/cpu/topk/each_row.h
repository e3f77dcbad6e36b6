// Reads the rows of a matrix one after the other, on all threads.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/matrix_view.h"

namespace bse {

// Calls visit(i, id, elements, thread) for the row id = ids[i], on the thread of this index. ids: [count], or null for
// the first count rows; elements: [dim] as float32, valid during the call
template <class Visit>
void for_each_row(ThreadTeam& team, const MatrixView& features, const int64_t* ids, int64_t count, const Visit& visit) {
  constexpr int64_t kGrain = 256;
  team.for_ranges(count, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    std::vector<float> scratch(static_cast<size_t>(features.dim));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = ids != nullptr ? ids[i] : i;
      visit(i, id, features.read(id, 0, features.dim, scratch.data()), static_cast<size_t>(worker.index()));
    }
  });
}

}  // namespace bse

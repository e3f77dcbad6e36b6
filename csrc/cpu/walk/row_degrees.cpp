#include "cpu/walk/row_degrees.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace bse {

void row_degrees(ThreadTeam& team, const GraphView& graph, int32_t* degrees) {
  const auto last = static_cast<int32_t>(graph.num_instances - 1);
  team.for_ranges(graph.num_rows, 4096, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t* ids = graph.neighbors + row * graph.num_neighbors;
      int32_t num_valid = 0, num_outside = 0;
      for (int64_t k = 0; k < graph.num_neighbors; ++k) {
        num_valid += ids[k] >= 0;
        num_outside += static_cast<int32_t>(ids[k] < -1) | static_cast<int32_t>(ids[k] > last);
      }
      if (num_outside > 0) {
        throw std::invalid_argument("graph: expected neighbors in [-1, " + std::to_string(graph.num_instances) +
                                    "), got another value in row " + std::to_string(row));
      }
      if (num_valid < graph.num_neighbors && std::any_of(ids, ids + num_valid, [](int32_t id) { return id < 0; })) {
        throw std::invalid_argument("graph: expected a valid prefix and then -1, got -1 before a neighbor in row " +
                                    std::to_string(row));
      }
      degrees[row] = num_valid;
    }
  });
}

}  // namespace bse

#include "cpu/walk/row_degrees.h"

#include <stdexcept>
#include <string>

namespace bse {

void row_degrees(ThreadTeam& team, const GraphView& graph, int32_t* degrees) {
  team.for_ranges(graph.num_rows, 4096, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t* ids = graph.neighbors + row * graph.num_neighbors;
      int64_t degree = 0, num_valid = 0;
      bool in_range = true;
      for (int64_t k = 0; k < graph.num_neighbors; ++k) {
        num_valid += ids[k] >= 0;
        in_range &= ids[k] >= -1 && ids[k] < graph.num_instances;
      }
      if (!in_range) {
        throw std::invalid_argument("graph: expected neighbors in [-1, " + std::to_string(graph.num_instances) +
                                    "), got another value in row " + std::to_string(row));
      }
      while (degree < graph.num_neighbors && ids[degree] >= 0) ++degree;
      if (degree != num_valid) {
        throw std::invalid_argument("graph: expected a valid prefix and then -1, got -1 before a neighbor in row " +
                                    std::to_string(row));
      }
      degrees[row] = static_cast<int32_t>(degree);
    }
  });
}

}  // namespace bse

#include "cpu/types/graph_view.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace bse {

void GraphView::throw_bad_neighbor(int32_t id, int64_t row) {
  throw std::invalid_argument("graph: expected neighbors that are rows of the graph, got " + std::to_string(id) +
                              " in row " + std::to_string(row));
}

uint32_t GraphView::short_degree(int64_t row) const {
  const int32_t* first = neighbors + row * num_neighbors;
  const int32_t* last = last_slot(row);
  const int32_t* end = std::partition_point(first, last, [](int32_t id) { return id >= 0; });
  if (*end != -1) throw_bad_neighbor(*end, row);
  if (*last != -1) throw_bad_neighbor(*last, row);
  return static_cast<uint32_t>(end - first);
}

}  // namespace bse

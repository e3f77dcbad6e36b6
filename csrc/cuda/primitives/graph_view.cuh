// Reads a neighbor table in a kernel.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"
#include "cuda/types/graph_view.h"

namespace bse::cuda {

BSE_DEVICE uint32_t degree_of(const GraphView& graph, uint32_t row) {
  return static_cast<uint32_t>(graph.degrees != nullptr ? __ldg(graph.degrees + row) : graph.num_neighbors);
}

struct Neighbor {
  int32_t id;
  uint32_t row;
  bool is_row;  // false if the id is no row of the graph, because the table may have changed since it was checked
};

BSE_DEVICE Neighbor neighbor_of(const GraphView& graph, uint32_t row, uint32_t i) {
  const int32_t id = __ldg(graph.neighbors + row * graph.num_neighbors + i);
  if (static_cast<uint32_t>(id) >= static_cast<uint32_t>(graph.num_instances)) return {id, 0, false};
  const auto found = static_cast<uint32_t>(graph.row_of != nullptr ? __ldg(graph.row_of + id) : id);
  return {id, found, found < static_cast<uint32_t>(graph.num_rows)};
}

}  // namespace bse::cuda

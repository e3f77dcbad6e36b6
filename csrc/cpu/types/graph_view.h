// A graph with checked access to its rows.
#pragma once

#include <cstdint>

#include "common/layouts.h"

namespace bse {

struct GraphView : GraphLayout {
  bool finds_degrees = false;  // if degrees is null: rows may be short, and degree() finds their ends

  uint32_t degree(int64_t row) const {
    if (degrees != nullptr) return static_cast<uint32_t>(degrees[row]);
    if (finds_degrees && num_neighbors > 0 && *last_slot(row) < 0) return short_degree(row);
    return static_cast<uint32_t>(num_neighbors);
  }

  // Address that degree() reads first, to prefetch it; null if it reads nothing.
  const int32_t* degree_address(int64_t row) const {
    if (degrees != nullptr) return degrees + row;
    return finds_degrees && num_neighbors > 0 ? last_slot(row) : nullptr;
  }

  // Row of the i-th neighbor. Throws for an invalid id, as the table may have changed since it was checked.
  uint32_t neighbor_row(int64_t row, uint32_t i) const {
    return row_of_checked(checked_id(neighbors[row * num_neighbors + i], row), row);
  }

  // The two halves of neighbor_row(), for callers that prefetch between them. row: that of the id, for the message.
  int32_t checked_id(int32_t id, int64_t row) const {
    if (static_cast<uint32_t>(id) >= static_cast<uint32_t>(num_instances)) throw_bad_neighbor(id, row);
    return id;
  }
  uint32_t row_of_checked(int32_t id, int64_t row) const {
    const int32_t found = row_of != nullptr ? row_of[id] : id;
    if (static_cast<uint32_t>(found) >= static_cast<uint32_t>(num_rows)) throw_bad_neighbor(id, row);
    return static_cast<uint32_t>(found);
  }

  [[noreturn]] static void throw_bad_neighbor(int32_t id, int64_t row);

 private:
  const int32_t* last_slot(int64_t row) const { return neighbors + (row + 1) * num_neighbors - 1; }

  // Place of the first -1 in a row that ends with -1. Throws for another negative id.
  uint32_t short_degree(int64_t row) const;
};

}  // namespace bse

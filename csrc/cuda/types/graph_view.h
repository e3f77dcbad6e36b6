// A borrowed neighbor table in device memory, walked by row: what csrc/cpu/types/graph_view.h is for the CPU.
#pragma once

#include <cstdint>

namespace bse::cuda {

struct GraphView {
  const int32_t* neighbors = nullptr;  // [num_rows, num_neighbors], a valid prefix of instance ids, then -1
  int64_t num_rows = 0, num_neighbors = 0;
  const int32_t* degrees = nullptr;  // [num_rows] lengths of the prefixes, or null: all num_neighbors
  const int32_t* row_of = nullptr;   // [num_instances] row of an instance or -1, or null: row i is instance i
  int64_t num_instances = 0;         // instance ids are below this
};

}  // namespace bse::cuda

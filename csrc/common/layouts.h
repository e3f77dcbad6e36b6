// Memory layouts of a matrix and a graph, for any device. Pointers are borrowed.
#pragma once

#include <cstdint>

#include "common/float_types.h"

namespace bse {

struct MatrixLayout {
  const void* data = nullptr;  // [num_rows, dim], rows row_stride_elements apart, elements of a row adjacent
  DType dtype = DType::kFloat32;
  int64_t num_rows = 0, dim = 0, row_stride_elements = 0;
  bool round_to_bf16 = false;  // read every element rounded to bfloat16 (compute_dtype=torch.bfloat16)
};

struct GraphLayout {
  const int32_t* neighbors = nullptr;  // [num_rows, num_neighbors], a valid prefix of instance ids, then -1
  int64_t num_rows = 0, num_neighbors = 0;
  const int32_t* degrees = nullptr;  // [num_rows] lengths of the prefixes, or null: all num_neighbors
  const int32_t* row_of = nullptr;   // [num_instances] row of an instance or -1, or null: row i is instance i
  int64_t num_instances = 0;         // instance ids are below this
};

}  // namespace bse

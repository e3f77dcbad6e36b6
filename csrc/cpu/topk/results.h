// Where the results of similarity searches go; with what they are asked for.
#pragma once

#include <cstdint>

#include "common/selection.h"
#include "cpu/runtime/huge_pages.h"

namespace bse {

// Where the results go. Rows are indices of the result, not instance ids.
struct Edges {
  int32_t* neighbors;  // [R, K], a valid prefix then -1
  float* scores;       // [R, K] or null; -inf past the prefix

  void prefer_huge_pages(int64_t num_rows, int64_t num_neighbors) const {
    bse::prefer_huge_pages(neighbors, 4 * num_rows * num_neighbors);
    bse::prefer_huge_pages(scores, 4 * num_rows * num_neighbors);
  }
};

}  // namespace bse

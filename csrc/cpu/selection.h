// What similarity searches are asked for, and where their results go.
#pragma once

#include <cstdint>

#include "../common/score.h"
#include "huge_pages.h"

namespace bse {

// What is asked of every row: which candidates may be linked, how many, and how they are listed.
struct Selection {
  Metric metric = Metric::kCosine;
  int64_t num_neighbors = 0;        // K: columns of the result
  int64_t range_min = 0;            // best candidates skipped before K are kept
  const int64_t* labels = nullptr;  // [N] or null; equal labels >= 0 are not linked
  bool has_max_score = false;
  float max_score = 0.0f;  // candidates scoring above it are not linked
  bool sort = false;       // list by (score descending, id) instead of draw order
};

// Where the results go. Rows are indices of the result, not instance ids.
struct Links {
  int32_t* neighbors;  // [R, K], a valid prefix then -1
  float* scores;       // [R, K] or null; -inf past the prefix

  void prefer_huge_pages(int64_t num_rows, int64_t num_neighbors) const {
    bse::prefer_huge_pages(neighbors, 4 * num_rows * num_neighbors);
    bse::prefer_huge_pages(scores, 4 * num_rows * num_neighbors);
  }
};

}  // namespace bse

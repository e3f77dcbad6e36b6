// What similarity searches are asked for, on any device. Labels are in the memory of that device.
#pragma once

#include <cstdint>

#include "common/score.h"

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

}  // namespace bse

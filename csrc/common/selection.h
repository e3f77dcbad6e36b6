// How the neighbors of a row are selected from its candidates, on any device.
#pragma once

#include <cstdint>

#include "common/score.h"

namespace bse {

struct Selection {
  Metric metric = Metric::kCosine;
  int64_t num_neighbors = 0;        // K: columns of the result
  int64_t range_min = 0;            // best candidates skipped before K are kept
  const int64_t* labels = nullptr;  // [N] or null; no edge between equal labels >= 0
  bool has_max_score = false;
  float max_score = 0.0f;  // no edge to a candidate that scores above it
  bool sort = false;       // list neighbors by (score descending, id) instead of draw order
};

}  // namespace bse

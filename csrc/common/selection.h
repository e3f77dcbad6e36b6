// Options of the selection of a row's neighbors from its candidates, for any device.
#pragma once

#include <cstdint>

#include "common/score.h"

namespace bse {

struct Selection {
  Metric metric = Metric::kCosine;
  int64_t num_neighbors = 0;        // K: columns of the result
  int64_t range_min = 0;            // number of best candidates that are skipped; the next K are kept
  const int64_t* labels = nullptr;  // [N] or null; no edge between equal labels >= 0
  bool has_max_score = false;
  float max_score = 0.0f;  // no edge to a candidate that scores above it
  bool sort = false;       // list neighbors by (score descending, id) instead of draw order
};

}  // namespace bse

// The arguments that say which candidates may be linked, as both engines' bindings take them.
#pragma once

#include "common/selection.h"
#include "python/pointers.h"

namespace bse {

inline Selection make_selection(int metric, int64_t num_neighbors, int64_t range_min, uintptr_t labels,
                                const pybind11::object& max_score, bool sort) {
  require(metric >= 0 && metric <= 2 && num_neighbors > 0 && range_min >= 0, "a metric code, K > 0, range_min >= 0");
  Selection selection;
  selection.metric = static_cast<Metric>(metric);
  selection.num_neighbors = num_neighbors;
  selection.range_min = range_min;
  selection.labels = pointer<const int64_t>(labels);
  selection.has_max_score = !max_score.is_none();
  if (selection.has_max_score) selection.max_score = max_score.cast<float>();
  selection.sort = sort;
  return selection;
}

}  // namespace bse

// Removes edges that labels or max_score forbid (Selection in common/selection.h).
#pragma once

#include <cstdint>
#include <limits>

#include "common/selection.h"

namespace bse {

// Sets the scores of a row's forbidden candidates to NaN. candidate_ids, scores: [count]
inline void forbid_edges(const Selection& selection, int64_t query_id, const int64_t* candidate_ids, int64_t count,
                         float* scores) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  const int64_t* labels = selection.labels;
  if (labels != nullptr && labels[query_id] >= 0) {
    const int64_t label = labels[query_id];
    for (int64_t c = 0; c < count; ++c) {
      if (labels[candidate_ids[c]] == label) scores[c] = kNaN;
    }
  }
  if (selection.has_max_score) {
    for (int64_t c = 0; c < count; ++c) {
      if (scores[c] > selection.max_score) scores[c] = kNaN;
    }
  }
}

}  // namespace bse

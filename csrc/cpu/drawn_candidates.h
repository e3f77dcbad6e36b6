// The candidates that a proximity graph has drawn for a row or for a group of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "candidate_draw.h"
#include "graph_build.h"

namespace bse {

// What the builders of a proximity graph read: the request, and row_term() of each row of the pool.
struct GraphPool {
  const ProximityGraphRequest& request;
  const float* query_terms;  // [num_rows]
  const float* key_terms;    // [num_rows]

  int64_t instance(int64_t row) const { return request.rows != nullptr ? request.rows[row] : row; }
};

// One thread's. Arrays hold `size` entries.
class DrawnCandidates {
 public:
  // size: of a draw; num_drawable: values that it draws from
  DrawnCandidates(const GraphPool& pool, int64_t size, int64_t num_drawable)
      : pool_(pool),
        draw_(static_cast<uint32_t>(size), static_cast<uint32_t>(num_drawable), pool.request.seed),
        rows_(static_cast<size_t>(size)),
        ids_(static_cast<size_t>(size)),
        terms_(static_cast<size_t>(size)) {}

  static int64_t bytes(int64_t size, int64_t num_drawable) {
    return 16 * size + CandidateDraw::bytes(size, num_drawable);
  }

  // Of all rows but `left_out`, which may be num_drawable: of all.
  void draw(int64_t group, int64_t left_out) {
    const uint32_t* drawn = draw_(static_cast<uint32_t>(group));
    for (size_t c = 0; c < rows_.size(); ++c) {
      const int64_t row = drawn[c] + (drawn[c] >= left_out ? 1 : 0);
      rows_[c] = static_cast<uint32_t>(row);
      ids_[c] = pool_.instance(row);
      terms_[c] = pool_.key_terms[row];
    }
  }

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  const uint32_t* rows() const { return rows_.data(); }  // of the pool
  const int64_t* ids() const { return ids_.data(); }     // of the features
  const float* terms() const { return terms_.data(); }

 private:
  const GraphPool& pool_;
  CandidateDraw draw_;
  std::vector<uint32_t> rows_;
  std::vector<int64_t> ids_;
  std::vector<float> terms_;
};

}  // namespace bse

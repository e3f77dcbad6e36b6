// The candidates drawn for one row of a proximity graph, or for a group of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/candidates/candidate_draw.h"
#include "cpu/types/requests.h"

namespace bse {

// Input of the builders of a proximity graph: the request, and row_norm() of each row of the subset.
struct GraphSubset {
  const ProximityGraphRequest& request;
  const float* query_norms;     // [num_rows]
  const float* document_norms;  // [num_rows]

  int64_t instance(int64_t row) const { return request.rows != nullptr ? request.rows[row] : row; }
};

// Belongs to one thread. Arrays are [size].
class DrawnCandidates {
 public:
  // size: number of candidates per draw; num_drawable: number of values to draw from
  DrawnCandidates(const GraphSubset& subset, int64_t size, int64_t num_drawable)
      : subset_(subset),
        draw_(static_cast<uint32_t>(size), static_cast<uint32_t>(num_drawable), subset.request.seed),
        rows_(static_cast<size_t>(size)),
        ids_(static_cast<size_t>(size)),
        norms_(static_cast<size_t>(size)) {}

  static int64_t bytes(int64_t size, int64_t num_drawable) {
    return 16 * size + CandidateDraw::bytes(size, num_drawable);
  }

  // Draws the candidates that a group of rows shares.
  void draw_shared(int64_t group) {
    const uint32_t* drawn = draw_(static_cast<uint32_t>(group));
    std::copy(drawn, drawn + size(), rows_.begin());
    look_up();
  }

  // Draws candidates for one row, among all other rows.
  void draw_own(int64_t row) {
    const uint32_t* drawn = draw_(static_cast<uint32_t>(row));
    const auto own = static_cast<uint32_t>(row);
    for (size_t c = 0; c < rows_.size(); ++c) rows_[c] = other_row(drawn[c], own);
    look_up();
  }

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  const uint32_t* rows() const { return rows_.data(); }  // rows of the subset
  const int64_t* ids() const { return ids_.data(); }     // their instance ids
  // Looked up at the first call after a draw: prefilters by bytes need few of the norms.
  const float* norms() {
    if (!has_norms_) {
      for (size_t c = 0; c < rows_.size(); ++c) norms_[c] = subset_.document_norms[rows_[c]];
      has_norms_ = true;
    }
    return norms_.data();
  }

 private:
  void look_up() {
    if (subset_.request.rows == nullptr) {
      std::copy(rows_.begin(), rows_.end(), ids_.begin());
    } else {
      for (size_t c = 0; c < rows_.size(); ++c) ids_[c] = subset_.request.rows[rows_[c]];
    }
    has_norms_ = false;
  }

  const GraphSubset& subset_;
  CandidateDraw draw_;
  std::vector<uint32_t> rows_;
  std::vector<int64_t> ids_;
  std::vector<float> norms_;
  bool has_norms_ = false;
};

}  // namespace bse

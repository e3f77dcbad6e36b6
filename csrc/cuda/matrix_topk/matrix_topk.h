// Launches that proximity graphs and exact neighbors share: row norms, a score matrix, and the selection of its edges.
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/grid_size.h"
#include "cuda/runtime/scratch.h"
#include "cuda/runtime/status.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

void launch_row_norms(const DeviceMatrix& matrix, const int64_t* ids, int64_t count, Metric metric, float* norms,
                      StatusKind bad_row, uint64_t* status, uint32_t* unbounded, device::Stream stream);

// Selects edges from a score matrix. Owns the plan of the selection, and its sort buffers in scratch.
class Selector {
 public:
  Selector(const Selection& selection, bool excludes_last, int64_t rows_at_once, Scratch& scratch);

  // Writes the edges of the rows of `block`.      scores: [block.num_rows, block.num_candidates]
  void launch(const ScoreBlock& block, float* scores, const Edges& edges, device::Stream stream) const;

 private:
  SelectPlan plan_{};
  uint64_t* sort_buffers_ = nullptr;
  int64_t max_blocks_;
};

// Returns whether tensor cores can prefilter grouped candidates. Rows must be aligned bfloat16 of at most
// kMaxPrefilterDim elements, scores cosines. Options that need exact scores rule it out: has_scores, sort, max_score.
bool can_prefilter(const DeviceMatrix& queries, const DeviceMatrix& base, const Selection& selection, bool has_scores);

// Fills the score matrix, for groups that share their candidates or for rows with their own.
void launch_scores(const ScoreBlock& block, float* scores, device::Stream stream);

}  // namespace bse::cuda

// The table of similarity kernels: one set per instruction set, chosen once at run time (isa.h).
//
// Scores are computed in tiles. Candidates are packed into panels of `panel_width` columns, [depth][panel_width], so
// that one SIMD lane owns one (row, candidate) pair and its accumulation is the ordered chain of fused multiply-adds
// that csrc/common/score.h defines: every instruction set returns the same bits.
#pragma once

#include <cstdint>

#include "../common/score.h"

namespace bse {

struct SimilarityKernels {
  const char* isa_name;
  int panel_width;

  // panel[k][c] = rows[c][k] for c < num_rows, 0 for the columns beyond.
  // rows: [num_rows] pointers to [depth] floats; panel: [depth][panel_width]
  void (*pack_panel)(const float* const* rows, int num_rows, int64_t depth, float* panel);

  // acc[i][p * panel_width + c] continues (or starts at +0) its chain over the panel's depth.
  // rows: [num_rows] pointers to [depth]; panels: [num_panels][depth][panel_width]; acc: [num_rows] rows of acc_stride
  void (*accumulate)(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth,
                     bool resume, float* acc, int64_t acc_stride);

  // norms[i] continues (or starts at +0) the chain of rows[i] with itself.      rows: [num_rows] pointers to [depth]
  void (*squared_norms)(const float* const* rows, int num_rows, int64_t depth, bool resume, float* norms);

  // acc[c] -> score, in place.      acc: [count]; terms: [count], row_term() of each candidate
  void (*finish_scores)(Metric metric, float row_term, const float* terms, int64_t count, float* acc);

  // A threshold that about num_wanted of the scores are above, seldom fewer. False: no guess. Only a guess: the caller
  // counts what it finds.      scores: [count]
  bool (*guess_threshold)(const float* scores, int64_t count, int64_t num_wanted, float* threshold);

  // Appends candidate_rank(scores[c], first_tiebreak + c) for every score that is not NaN and, if `bounded`, above
  // `threshold`, in order, until fewer than panel_width free places are left. Returns how many scores it has looked at.
  // scores: [count]; ranks: [capacity], *num_ranks of them used
  int64_t (*collect)(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                     uint64_t* ranks, int64_t* num_ranks, int64_t capacity);
};

extern const SimilarityKernels kScalarKernels;
#if defined(__x86_64__)
extern const SimilarityKernels kAvx2Kernels;
extern const SimilarityKernels kAvx512Kernels;
#endif

}  // namespace bse

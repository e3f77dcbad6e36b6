// The table of kernels. There is one table per instruction set, chosen once at run time (dispatch.h).
//
// Scores are computed in tiles. Candidates are packed into panels of `panel_width` columns, [depth][panel_width], so
// that each SIMD lane owns one (row, candidate) pair. It computes the ordered chain of fused multiply-adds that
// csrc/common/score.h defines. So every instruction set returns the same bits.
#pragma once

#include <cstdint>

#include "common/score.h"

namespace bse {

// Separates the best scores of an array, in tiebreak order: all above `score`, and the first num_equal equal to it.
struct TopKCut {
  float score;
  int64_t num_equal;
};

// Offset of a Philox block's counter from that of the first block.
struct BlockOffset {
  uint32_t minor, block;
};

struct KernelTable {
  const char* isa_name;
  int panel_width;

  // panel[k][c] = rows[c][k] for c < num_rows, 0 for the columns beyond.
  // rows: [num_rows] pointers to [depth] floats; panel: [depth][panel_width]
  void (*pack_panel)(const float* const* rows, int num_rows, int64_t depth, float* panel);

  // acc[i][p * panel_width + c] continues (or starts at +0) its chain of products over the panel's depth.
  // rows: [num_rows] pointers to [depth]; panels: [num_panels][depth][panel_width]; acc: [num_rows] rows of acc_stride
  void (*accumulate)(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth,
                     bool resume, float* acc, int64_t acc_stride);

  // As accumulate(), for the chains of squared differences, of l2.
  void (*accumulate_l2)(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth,
                        bool resume, float* acc, int64_t acc_stride);

  // As accumulate(), by dot product instructions on pairs of bfloat16 elements: each float holds one pair, and depth
  // counts pairs. The error is only bounded by csrc/common/prefilter_bound.h. Null if the instruction set has none.
  void (*accumulate_pairs)(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth,
                           bool resume, float* acc, int64_t acc_stride);

  // As accumulate(), by integer instructions on pairs of int16 elements of fixed-point copies: each float of rows and
  // panels holds one pair, and depth counts pairs. csrc/common/prefilter_bound.h bounds the error. Null if the
  // instruction set has none that are faster than accumulate().
  void (*accumulate_int16)(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth,
                           bool resume, float* acc, int64_t acc_stride);
  // Raises *largest to the largest |row[k] norm|, and *largest_square to the largest sum of squares of row[k] norm that
  // 2 kFixedPointDepth elements in a row may have. Null if accumulate_int16 is.
  // row: [dim]
  void (*find_range)(const float* row, int64_t dim, float norm, float* largest, float* largest_square);
  // elements[k] = row[k] norm scale, rounded to nearest. Returns the sum of the squared differences. Null if
  // accumulate_int16 is.
  // row, elements: [dim]
  float (*round_to_int16)(const float* row, int64_t dim, float norm, float scale, int16_t* elements);

  // norms[c] continues (or starts at +0) the chain of column c with itself.
  // panel: [depth][panel_width]; norms: [panel_width]
  void (*squared_norms)(const float* panel, int64_t depth, bool resume, float* norms);

  // Turns acc[c] into the score of candidate c, in place. acc: [count]; norms: [count], row_norm() of each candidate
  void (*finish_scores)(Metric metric, float row_norm, const float* norms, int64_t count, float* acc);

  // Guesses a threshold that about num_wanted scores are above, seldom fewer. The caller must count them. Returns false
  // if there is no guess. scores: [count]
  bool (*guess_threshold)(const float* scores, int64_t count, int64_t num_wanted, float* threshold);

  // Appends every score that is not NaN and, if `bounded`, above `threshold`. Keeps the order; the tiebreak of
  // scores[c] is first_tiebreak + c. Stops when fewer than panel_width places are free. Returns the number of scores
  // processed. scores: [count]; kept_scores, kept_tiebreaks: [capacity], *num_kept of them used
  int64_t (*collect)(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                     float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity);

  // Writes every c with scores[c] >= entry_scores[c] to hits, ascending. Returns how many.
  // scores, entry_scores: [count]; hits: [count + 16]
  int64_t (*find_entries)(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits);

  // Returns the cut after the best num_best. scores: [count] without NaN; 1 <= num_best <= count
  TopKCut (*find_cut)(const float* scores, int64_t count, int64_t num_best);

  // Keeps the scores on the best side of a cut, or on the other side if !keep_best, in order and in place. Returns how
  // many.
  // scores, tiebreaks: [count], readable and writable up to the next multiple of 16
  int64_t (*filter)(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best);

  // words[4 b + w] = word w of the Philox block of counter (c0, c1, c2 + offsets[b].minor, c3 + offsets[b].block).
  // num_blocks: a multiple of 8; offsets: [num_blocks]; words: [4 num_blocks]
  void (*philox_blocks)(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                        int num_blocks, uint32_t* words);

  // out[c] = the inner product of `row` and row ids[c] of `base`, as the sum of 4 to 16 partial sums of equally many
  // products, give or take one. partial_sums_error() bounds the error. Null if the instruction set has none.
  // row: [dim]; base: rows of [dim], row_stride elements apart; ids, out: [count]
  void (*gather_dots)(const float* row, const float* base, int64_t row_stride, int64_t dim, const int64_t* ids,
                      int64_t count, float* out);
  // As gather_dots(), for bfloat16 elements, but added in any order. prefilter_error() bounds the error.
  void (*gather_bfloat16_dots)(const uint16_t* row, const uint16_t* base, int64_t row_stride, int64_t dim,
                               const int64_t* ids, int64_t count, float* out);

  // out[c] = scale * (S - offset) for the sum S of row[k] * base[ids[c] * row_bytes + place(k)]. S - offset is exact:
  // it has to fit into 32 bits. Its conversion to float and the product with scale round to nearest. place(64 i + j) is
  // 64 i + 2 j for j < 32 and 64 i + 2 (j - 32) + 1 for the others. Null if the instruction set has none.
  // row: [row_bytes]; base: rows of row_bytes, a multiple of 64; ids, out: [count]; count >= 1
  void (*gather_byte_dots)(const int16_t* row, const uint8_t* base, int64_t row_bytes, const int64_t* ids,
                           int64_t count, int32_t offset, float scale, float* out);

  // Keeps the values that are not negative, in order and in place. Returns how many.
  // values: [count], readable and writable up to the next multiple of 16
  int64_t (*keep_nonnegative)(int32_t* values, int64_t count);

  // places[i] = number of ranks smaller than ranks[i]. O(count^2), for short lists. ranks: [count], distinct
  void (*find_places)(const uint64_t* ranks, int64_t count, uint32_t* places);
};

extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const KernelTable kAvx512Bf16Kernels;
#elif defined(__aarch64__)
extern const KernelTable kNeonKernels;
#endif

}  // namespace bse

// NEON kernels (aarch64): register tiles of 6 rows x 16 candidates, one lane a pair.
//
// Every aarch64 processor has these instructions, fused multiply-add included.

#include <arm_neon.h>

#include "cpu/simd/algorithms.h"
#include "cpu/simd/kernel_table.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 16;
constexpr int kVectors = kPanelWidth / 4;
constexpr int kRowTile = 6;

// 4 x 4 transpose: rows[r][k .. k + 4) -> panel[(k + i) * kPanelWidth + r].
inline void transpose_4x4(const float* const* rows, int64_t k, float* panel) {
  const float32x4_t row0 = vld1q_f32(rows[0] + k), row1 = vld1q_f32(rows[1] + k);
  const float32x4_t row2 = vld1q_f32(rows[2] + k), row3 = vld1q_f32(rows[3] + k);
  const float64x2_t even01 = vreinterpretq_f64_f32(vtrn1q_f32(row0, row1));
  const float64x2_t odd01 = vreinterpretq_f64_f32(vtrn2q_f32(row0, row1));
  const float64x2_t even23 = vreinterpretq_f64_f32(vtrn1q_f32(row2, row3));
  const float64x2_t odd23 = vreinterpretq_f64_f32(vtrn2q_f32(row2, row3));
  float* out = panel + k * kPanelWidth;
  vst1q_f32(out, vreinterpretq_f32_f64(vtrn1q_f64(even01, even23)));
  vst1q_f32(out + kPanelWidth, vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23)));
  vst1q_f32(out + 2 * kPanelWidth, vreinterpretq_f32_f64(vtrn2q_f64(even01, even23)));
  vst1q_f32(out + 3 * kPanelWidth, vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23)));
}

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  for (int column = 0; column < kPanelWidth; column += 4) {
    int64_t k = 0;
    if (column + 4 <= num_rows) {
      for (; k + 4 <= depth; k += 4) transpose_4x4(rows + column, k, panel + column);
    }
    for (; k < depth; ++k) {
      for (int c = column; c < column + 4; ++c) panel[k * kPanelWidth + c] = c < num_rows ? rows[c][k] : 0.0f;
    }
  }
}

template <int kRows>
inline void accumulate_tile(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                            int64_t acc_stride) {
  float32x4_t sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = resume ? vld1q_f32(acc + i * acc_stride + 4 * v) : vdupq_n_f32(0.0f);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    float32x4_t candidates[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) candidates[v] = vld1q_f32(panel + k * kPanelWidth + 4 * v);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const float32x4_t element = vdupq_n_f32(rows[i][k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = vfmaq_f32(sums[i][v], element, candidates[v]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) vst1q_f32(acc + i * acc_stride + 4 * v, sums[i][v]);
  }
}

void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  static constexpr Tile kTiles[kRowTile] = {accumulate_tile<1>, accumulate_tile<2>, accumulate_tile<3>,
                                            accumulate_tile<4>, accumulate_tile<5>, accumulate_tile<6>};
  accumulate_by_tiles(kTiles, kRowTile, kPanelWidth, rows, num_rows, panels, num_panels, depth, resume, acc,
                      acc_stride);
}

// Lanes past the end are NaN.
inline float32x4_t load(const float* scores, int64_t left) {
  if (left >= 4) return vld1q_f32(scores);
  float padded[4];
  for (int i = 0; i < 4; ++i) padded[i] = i < left ? scores[i] : __builtin_nanf("");
  return vld1q_f32(padded);
}

// A bit for each lane.
inline unsigned mask_of(uint32x4_t lanes) {
  constexpr uint32_t kBits[4] = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(lanes, vld1q_u32(kBits)));
}

// What the searches of algorithms.h ask.
struct Counting {
  static RowStatistics statistics(const float* scores, int64_t count) {
    float32x4_t sum = vdupq_n_f32(0.0f), squares = sum;
    uint32x4_t num_known = vdupq_n_u32(0);
    for (int64_t c = 0; c < count; c += 4) {
      const float32x4_t lanes = load(scores + c, count - c);
      const uint32x4_t known = vceqq_f32(lanes, lanes);
      const float32x4_t values = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(lanes), known));
      sum = vaddq_f32(sum, values);
      squares = vfmaq_f32(squares, values, values);
      num_known = vsubq_u32(num_known, known);  // true is -1
    }
    return {vaddvq_f32(sum), vaddvq_f32(squares), static_cast<int64_t>(vaddvq_u32(num_known))};
  }

  static void extremes(const float* scores, int64_t count, float* lowest, float* highest) {
    float32x4_t low = vdupq_n_f32(scores[0]), high = low;
    for (int64_t c = 0; c < count; c += 4) {
      const float32x4_t lanes = load(scores + c, count - c);
      low = vminnmq_f32(low, lanes);  // of a NaN and a number: the number
      high = vmaxnmq_f32(high, lanes);
    }
    *lowest = vminnmvq_f32(low);
    *highest = vmaxnmvq_f32(high);
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const float32x4_t limit = vdupq_n_f32(threshold);
    uint32x4_t above = vdupq_n_u32(0);
    for (int64_t c = 0; c < count; c += 4) above = vsubq_u32(above, vcgtq_f32(load(scores + c, count - c), limit));
    return static_cast<int64_t>(vaddvq_u32(above));
  }
};

// bytes[mask]: which byte goes where if the lanes of the mask are moved to the front.
struct CompressTable {
  alignas(16) uint8_t bytes[16][16] = {};
  constexpr CompressTable() {
    for (unsigned mask = 0; mask < 16; ++mask) {
      unsigned place = 0;
      for (unsigned lane = 0; lane < 4; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        for (unsigned byte = 0; byte < 4; ++byte) bytes[mask][4 * place + byte] = static_cast<uint8_t>(4 * lane + byte);
        ++place;
      }
    }
  }
};
constexpr CompressTable kCompress;

// The lanes of the mask, moved to the front. Returns how many. A whole vector is stored: the caller leaves room for it.
inline int64_t store_front(uint32_t* target, uint32x4_t lanes, unsigned mask) {
  const uint8x16_t front = vqtbl1q_u8(vreinterpretq_u8_u32(lanes), vld1q_u8(kCompress.bytes[mask]));
  vst1q_u32(target, vreinterpretq_u32_u8(front));
  return __builtin_popcount(mask);
}

inline int64_t store_front(float* target, float32x4_t lanes, unsigned mask) {
  const uint8x16_t front = vqtbl1q_u8(vreinterpretq_u8_f32(lanes), vld1q_u8(kCompress.bytes[mask]));
  vst1q_f32(target, vreinterpretq_f32_u8(front));
  return __builtin_popcount(mask);
}

inline uint32x4_t four_from(uint32_t first) {
  constexpr uint32_t kLanes[4] = {0, 1, 2, 3};
  return vaddq_u32(vld1q_u32(kLanes), vdupq_n_u32(first));
}

// Tiebreaks are compressed and scores fetched afterwards: one unaligned store a vector instead of two.
int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity) {
  const float32x4_t limit = vdupq_n_f32(threshold);
  uint32x4_t tiebreaks = four_from(first_tiebreak);
  int64_t c = 0, used = *num_kept;
  for (; c < count && used + kPanelWidth <= capacity; c += 4) {
    const float32x4_t lanes = load(scores + c, count - c);
    const uint32x4_t wanted = bounded ? vcgtq_f32(lanes, limit) : vceqq_f32(lanes, lanes);
    used += store_front(kept_tiebreaks + used, tiebreaks, mask_of(wanted));
    tiebreaks = vaddq_u32(tiebreaks, vdupq_n_u32(4));
  }
  for (int64_t n = *num_kept; n < used; ++n) kept_scores[n] = scores[kept_tiebreaks[n] - first_tiebreak];
  *num_kept = used;
  return c < count ? c : count;
}

int64_t find_entries(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits) {
  uint32x4_t places = four_from(0);
  int64_t num_hits = 0;
  for (int64_t c = 0; c < count; c += 4) {  // lanes past the end are NaN
    const uint32x4_t entering = vcgeq_f32(load(scores + c, count - c), load(entry_scores + c, count - c));
    num_hits += store_front(hits + num_hits, places, mask_of(entering));
    places = vaddq_u32(places, vdupq_n_u32(4));
  }
  return num_hits;
}

int64_t filter(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best) {
  const float32x4_t limit = vdupq_n_f32(cut.score);
  int64_t num_kept = 0, num_equal = 0;
  for (int64_t c = 0; c < count; c += 4) {
    const unsigned inside = count - c >= 4 ? 0xF : (1u << (count - c)) - 1;
    const float32x4_t lanes = vld1q_f32(scores + c);
    const uint32x4_t ties = vld1q_u32(tiebreaks + c);
    const unsigned equal = inside & mask_of(vceqq_f32(lanes, limit));
    unsigned best = inside & mask_of(vcgtq_f32(lanes, limit));
    if (equal != 0) best |= first_set_bits(equal, cut.num_equal - num_equal);
    num_equal += __builtin_popcount(equal);
    const unsigned kept = keep_best ? best : inside & ~best;
    store_front(scores + num_kept, lanes, kept);
    num_kept += store_front(tiebreaks + num_kept, ties, kept);
  }
  return num_kept;
}

void find_places(const uint64_t* ranks, int64_t count, uint32_t* places) {
  for (int64_t i = 0; i < count; i += 2) {
    const uint64_t own[2] = {ranks[i], ranks[i + 1 < count ? i + 1 : i]};
    const uint64x2_t lanes = vld1q_u64(own);
    uint64x2_t below = vdupq_n_u64(0);
    for (int64_t j = 0; j < count; ++j) below = vsubq_u64(below, vcltq_u64(vdupq_n_u64(ranks[j]), lanes));
    places[i] = static_cast<uint32_t>(vgetq_lane_u64(below, 0));
    if (i + 1 < count) places[i + 1] = static_cast<uint32_t>(vgetq_lane_u64(below, 1));
  }
}

// High halves of the products.
inline uint32x4_t multiply_high(uint32x4_t words, uint32_t factor) {
  const uint64x2_t low = vmull_n_u32(vget_low_u32(words), factor), high = vmull_high_n_u32(words, factor);
  return vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high));
}

// Four blocks at a time, a lane each.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  for (int b = 0; b < num_blocks; b += 4) {
    const uint32x4x2_t offset = vld2q_u32(&offsets[b].minor);
    uint32x4_t w0 = vdupq_n_u32(c0), w1 = vdupq_n_u32(c1);
    uint32x4_t w2 = vaddq_u32(vdupq_n_u32(c2), offset.val[0]), w3 = vaddq_u32(vdupq_n_u32(c3), offset.val[1]);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const uint32x4_t high0 = multiply_high(w0, kPhiloxFactor0), low0 = vmulq_n_u32(w0, kPhiloxFactor0);
      const uint32x4_t high1 = multiply_high(w2, kPhiloxFactor1), low1 = vmulq_n_u32(w2, kPhiloxFactor1);
      w0 = veorq_u32(veorq_u32(high1, w1), vdupq_n_u32(k0));
      w1 = low1;
      w2 = veorq_u32(veorq_u32(high0, w3), vdupq_n_u32(k1));
      w3 = low0;
      k0 += kPhiloxKeyStep0;
      k1 += kPhiloxKeyStep1;
    }
    const uint32x4x4_t blocks = {{w0, w1, w2, w3}};
    vst4q_u32(words + 4 * b, blocks);  // word by word of each block
  }
}

// Eight rows at a time, the lanes along the row; the rows after the next are on their way meanwhile.
void gather_dots(const float* row, const float* base, int64_t row_stride, int64_t dim, const int64_t* ids,
                 int64_t count, float* out) {
  constexpr int64_t kAhead = 16, kElementsPerLine = 16, kMaxLines = 32;
  const int64_t fetched = dim < kMaxLines * kElementsPerLine ? dim : kMaxLines * kElementsPerLine;
  const int64_t whole = dim / 4 * 4;
  const auto row_of = [&](int64_t c) { return base + ids[c < count ? c : count - 1] * row_stride; };
  for (int64_t first = 0; first < count; first += 8) {
    const float* rows[8];
    for (int i = 0; i < 8; ++i) {
      rows[i] = row_of(first + i);
      const float* ahead = row_of(first + kAhead + i);
      for (int64_t k = 0; k < fetched; k += kElementsPerLine) __builtin_prefetch(ahead + k);
    }
    float32x4_t sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = vdupq_n_f32(0.0f);
    for (int64_t k = 0; k < whole; k += 4) {
      const float32x4_t own = vld1q_f32(row + k);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sums[i] = vfmaq_f32(sums[i], own, vld1q_f32(rows[i] + k));
    }
    const int64_t size = count - first < 8 ? count - first : 8;
    for (int i = 0; i < size; ++i) {
      float sum = vaddvq_f32(sums[i]);
      for (int64_t k = whole; k < dim; ++k) sum = fmaf(row[k], rows[i][k], sum);
      out[first + i] = sum;
    }
  }
}

}  // namespace

const KernelTable kNeonKernels = {"neon",
                                  kPanelWidth,
                                  pack_panel,
                                  accumulate,
                                  nullptr,
                                  squared_norms<kPanelWidth>,
                                  finish_score_row,
                                  guess_from_counts<Counting>,
                                  collect,
                                  find_entries,
                                  find_cut_by_counts<Counting>,
                                  filter,
                                  philox_blocks,
                                  gather_dots,
                                  nullptr,
                                  find_places};

}  // namespace bse

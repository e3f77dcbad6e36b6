// NEON kernels (aarch64): register tiles of 6 rows x 16 candidates, one lane a pair.
//
// Every aarch64 processor has these instructions, fused multiply-add included.

#include <arm_neon.h>

#include "cpu/simd/algorithms.h"
#include "cpu/simd/kernel_table.h"

namespace bse {
namespace {

// bytes[mask]: the byte that comes to each place when the lanes of the mask move to the front.
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

// High halves of the products.
inline uint32x4_t multiply_high(uint32x4_t words, uint32_t factor) {
  const uint64x2_t low = vmull_n_u32(vget_low_u32(words), factor), high = vmull_high_n_u32(words, factor);
  return vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high));
}

struct Neon {
  static constexpr int kLanes = 4, kPanelWidth = 16, kRowTile = 6;
  using Vector = float32x4_t;
  using Words = uint32x4_t;

  static Vector zero() { return vdupq_n_f32(0.0f); }
  static Vector broadcast(float value) { return vdupq_n_f32(value); }
  static Vector broadcast_element(const float* element) { return vdupq_n_f32(*element); }
  static Vector load(const float* values) { return vld1q_f32(values); }
  static Vector load(const float* values, int64_t left) {
    return left >= 4 ? load(values) : padded(values, left, __builtin_nanf(""));
  }
  static void store(float* values, Vector lanes) { vst1q_f32(values, lanes); }
  static Vector add(Vector sums, Vector a, Vector b) { return vfmaq_f32(sums, a, b); }

  static Words load_words(const uint32_t* words) { return vld1q_u32(words); }
  static Words words_from(uint32_t first) {
    constexpr uint32_t kFirst[4] = {0, 1, 2, 3};
    return vaddq_u32(vld1q_u32(kFirst), vdupq_n_u32(first));
  }
  static Words next(Words words) { return vaddq_u32(words, vdupq_n_u32(4)); }

  static unsigned mask_of(Words wanted) {
    constexpr uint32_t kBits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(wanted, vld1q_u32(kBits)));
  }
  static unsigned mask_above(Vector a, Vector b) { return mask_of(vcgtq_f32(a, b)); }
  static unsigned mask_at_least(Vector a, Vector b) { return mask_of(vcgeq_f32(a, b)); }
  static unsigned mask_equal(Vector a, Vector b) { return mask_of(vceqq_f32(a, b)); }

  static int64_t store_front(uint32_t* target, Words lanes, unsigned mask) {
    const uint8x16_t front = vqtbl1q_u8(vreinterpretq_u8_u32(lanes), vld1q_u8(kCompress.bytes[mask]));
    vst1q_u32(target, vreinterpretq_u32_u8(front));
    return __builtin_popcount(mask);
  }
  static int64_t store_front(float* target, Vector lanes, unsigned mask) {
    return store_front(reinterpret_cast<uint32_t*>(target), vreinterpretq_u32_f32(lanes), mask);
  }

  struct Product {
    Words high, low;
  };
  static Product multiply(Words words, uint32_t factor) {
    return {multiply_high(words, factor), vmulq_n_u32(words, factor)};
  }
  static Words exclusive_or(Words a, Words b, uint32_t key) { return veorq_u32(veorq_u32(a, b), vdupq_n_u32(key)); }

  using Element = float;
  static constexpr int kElements = 4, kGatheredRows = 8;
  static Vector load_elements(const float* elements) { return load(elements); }
  static Vector load_elements(const float* elements, int64_t left) { return padded(elements, left, 0.0f); }
  static Vector add_elements(Vector sums, Vector a, Vector b) { return add(sums, a, b); }
  static void write_sums(const Vector* sums, int64_t num_rows, float* out) {
    for (int64_t i = 0; i < num_rows; ++i) out[i] = vaddvq_f32(sums[i]);
  }

 private:
  static Vector padded(const float* values, int64_t left, float filler) {
    float all[4];
    for (int i = 0; i < 4; ++i) all[i] = i < left ? values[i] : filler;
    return vld1q_f32(all);
  }
};

struct NeonBytes {
  static constexpr int64_t kBytes = 16;
  using Vector = int32x4_t;

  static Vector zero() { return vdupq_n_s32(0); }
  static int16x8_t load(const int16_t* words) { return vld1q_s16(words); }
  static uint16x8_t load(const uint8_t* bytes) { return vreinterpretq_u16_u8(vld1q_u8(bytes)); }
  static Vector add_products(Vector sums, int16x8_t low, int16x8_t high, uint16x8_t bytes) {
    const int16x8_t even = vreinterpretq_s16_u16(vandq_u16(bytes, vdupq_n_u16(0xFF)));
    const int16x8_t odd = vreinterpretq_s16_u16(vshrq_n_u16(bytes, 8));
    sums = vmlal_high_s16(vmlal_s16(sums, vget_low_s16(low), vget_low_s16(even)), low, even);
    return vmlal_high_s16(vmlal_s16(sums, vget_low_s16(high), vget_low_s16(odd)), high, odd);
  }
  static void write_sums(const Vector* sums, int32_t offset, float scale, float* out) {
    const Vector total = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
    vst1q_f32(out, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(total, vdupq_n_s32(offset))), scale));
  }
};

// The functions that algorithms.h calls Counting.
// 4 x 4 transpose: rows[r][k .. k + 4) -> panel[(k + i) * Neon::kPanelWidth + r].
inline void transpose_4x4(const float* const* rows, int64_t k, float* panel) {
  const float32x4_t row0 = vld1q_f32(rows[0] + k), row1 = vld1q_f32(rows[1] + k);
  const float32x4_t row2 = vld1q_f32(rows[2] + k), row3 = vld1q_f32(rows[3] + k);
  const float64x2_t even01 = vreinterpretq_f64_f32(vtrn1q_f32(row0, row1));
  const float64x2_t odd01 = vreinterpretq_f64_f32(vtrn2q_f32(row0, row1));
  const float64x2_t even23 = vreinterpretq_f64_f32(vtrn1q_f32(row2, row3));
  const float64x2_t odd23 = vreinterpretq_f64_f32(vtrn2q_f32(row2, row3));
  float* out = panel + k * Neon::kPanelWidth;
  vst1q_f32(out, vreinterpretq_f32_f64(vtrn1q_f64(even01, even23)));
  vst1q_f32(out + Neon::kPanelWidth, vreinterpretq_f32_f64(vtrn1q_f64(odd01, odd23)));
  vst1q_f32(out + 2 * Neon::kPanelWidth, vreinterpretq_f32_f64(vtrn2q_f64(even01, even23)));
  vst1q_f32(out + 3 * Neon::kPanelWidth, vreinterpretq_f32_f64(vtrn2q_f64(odd01, odd23)));
}

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  for (int column = 0; column < Neon::kPanelWidth; column += 4) {
    int64_t k = 0;
    if (column + 4 <= num_rows) {
      for (; k + 4 <= depth; k += 4) transpose_4x4(rows + column, k, panel + column);
    }
    for (; k < depth; ++k) {
      for (int c = column; c < column + 4; ++c) panel[k * Neon::kPanelWidth + c] = c < num_rows ? rows[c][k] : 0.0f;
    }
  }
}

struct Counting {
  static RowStatistics statistics(const float* scores, int64_t count) {
    float32x4_t sum = vdupq_n_f32(0.0f), squares = sum;
    uint32x4_t num_known = vdupq_n_u32(0);
    for (int64_t c = 0; c < count; c += 4) {
      const float32x4_t lanes = Neon::load(scores + c, count - c);
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
      const float32x4_t lanes = Neon::load(scores + c, count - c);
      low = vminnmq_f32(low, lanes);  // of a NaN and a number: the number
      high = vmaxnmq_f32(high, lanes);
    }
    *lowest = vminnmvq_f32(low);
    *highest = vmaxnmvq_f32(high);
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const float32x4_t limit = vdupq_n_f32(threshold);
    uint32x4_t above = vdupq_n_u32(0);
    for (int64_t c = 0; c < count; c += 4)
      above = vsubq_u32(above, vcgtq_f32(Neon::load(scores + c, count - c), limit));
    return static_cast<int64_t>(vaddvq_u32(above));
  }
};

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

// Four blocks at a time, one per lane.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  for (int b = 0; b < num_blocks; b += 4) {
    const uint32x4x2_t offset = vld2q_u32(&offsets[b].minor);
    uint32x4_t w[4] = {vdupq_n_u32(c0), vdupq_n_u32(c1), vaddq_u32(vdupq_n_u32(c2), offset.val[0]),
                       vaddq_u32(vdupq_n_u32(c3), offset.val[1])};
    philox_rounds<Neon>(key, w);
    const uint32x4x4_t blocks = {{w[0], w[1], w[2], w[3]}};
    vst4q_u32(words + 4 * b, blocks);  // interleaves the words of each block
  }
}

}  // namespace

constexpr KernelTable kNeonKernels =
    kernel_table_of<Neon, Counting, void, NeonBytes>("neon", pack_panel, philox_blocks, find_places);

}  // namespace bse

// AVX2 + FMA kernels: register tiles of 6 rows x 16 candidates, one lane a pair.
//
// Compiled with -mavx2 -mfma; reached only through the table after the CPU has been asked (dispatch.cpp). Everything is
// in an anonymous namespace and nothing of the standard library's templates is used, so that no weak AVX symbol leaves
// here.

#include "cpu/simd/algorithms.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/x86_packing.h"

namespace bse {
namespace {

constexpr int kPanelWidth = 16;
constexpr int kRowTile = 6;

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, kPanelWidth, panel);
}

template <int kRows>
inline void accumulate_tile(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                            int64_t acc_stride) {
  __m256 low[kRows], high[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    low[i] = resume ? _mm256_load_ps(acc + i * acc_stride) : _mm256_setzero_ps();
    high[i] = resume ? _mm256_load_ps(acc + i * acc_stride + 8) : _mm256_setzero_ps();
  }
  for (int64_t k = 0; k < depth; ++k) {
    const __m256 panel_low = _mm256_load_ps(panel + k * kPanelWidth);
    const __m256 panel_high = _mm256_load_ps(panel + k * kPanelWidth + 8);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m256 element = _mm256_broadcast_ss(rows[i] + k);
      low[i] = _mm256_fmadd_ps(element, panel_low, low[i]);
      high[i] = _mm256_fmadd_ps(element, panel_high, high[i]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    _mm256_store_ps(acc + i * acc_stride, low[i]);
    _mm256_store_ps(acc + i * acc_stride + 8, high[i]);
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
inline __m256 load(const float* scores, int64_t left) {
  if (left >= 8) return _mm256_loadu_ps(scores);
  alignas(32) float padded[8];
  for (int i = 0; i < 8; ++i) padded[i] = i < left ? scores[i] : __builtin_nanf("");
  return _mm256_load_ps(padded);
}

// What the searches of algorithms.h ask.
struct Counting {
  static float reduce(__m256 lanes) {
    alignas(32) float parts[8];
    _mm256_store_ps(parts, lanes);
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  }

  static RowStatistics statistics(const float* scores, int64_t count) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    RowStatistics row;
    for (int64_t c = 0; c < count; c += 8) {
      const __m256 lanes = load(scores + c, count - c);
      const __m256 known = _mm256_cmp_ps(lanes, lanes, _CMP_ORD_Q);
      const __m256 values = _mm256_and_ps(lanes, known);
      sum = _mm256_add_ps(sum, values);
      squares = _mm256_fmadd_ps(values, values, squares);
      row.count += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(known)));
    }
    row.sum = reduce(sum);
    row.sum_of_squares = reduce(squares);
    return row;
  }

  static void extremes(const float* scores, int64_t count, float* lowest, float* highest) {
    __m256 low = _mm256_set1_ps(scores[0]), high = low;
    for (int64_t c = 0; c < count; c += 8) {  // min and max of a NaN and a number, in this order, are the number
      const __m256 lanes = load(scores + c, count - c);
      low = _mm256_min_ps(lanes, low);
      high = _mm256_max_ps(lanes, high);
    }
    alignas(32) float parts[8];
    _mm256_store_ps(parts, low);
    *lowest = parts[0];
    for (const float part : parts) *lowest = part < *lowest ? part : *lowest;
    _mm256_store_ps(parts, high);
    *highest = parts[0];
    for (const float part : parts) *highest = part > *highest ? part : *highest;
  }

  static int64_t count_above(const float* scores, int64_t count, float threshold) {
    const __m256 limit = _mm256_set1_ps(threshold);
    __m256i above = _mm256_setzero_si256();
    for (int64_t c = 0; c < count; c += 8) {
      const __m256 wanted = _mm256_cmp_ps(load(scores + c, count - c), limit, _CMP_GT_OQ);
      above = _mm256_sub_epi32(above, _mm256_castps_si256(wanted));  // true is -1
    }
    alignas(32) int32_t parts[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), above);
    int64_t total = 0;
    for (const int32_t part : parts) total += part;
    return total;
  }
};

// compress.lanes[mask]: which lane goes where if the lanes of the mask are moved to the front.
struct CompressTable {
  alignas(64) uint64_t lanes[256] = {};  // a byte a lane
  constexpr CompressTable() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      unsigned place = 0;
      for (unsigned lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1) != 0) lanes[mask] |= uint64_t{lane} << 8 * place++;
      }
    }
  }
};
constexpr CompressTable kCompress;

// The lanes of the mask, moved to the front. Returns how many. A whole vector is stored: the caller leaves room for it.
inline int64_t store_front(uint32_t* target, __m256i lanes, unsigned mask) {
  const __m256i front = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kCompress.lanes[mask])));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_permutevar8x32_epi32(lanes, front));
  return __builtin_popcount(mask);
}

// Tiebreaks are compressed and scores fetched afterwards: one unaligned store a vector instead of two.
int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity) {
  const __m256 limit = _mm256_set1_ps(threshold);
  const __m256i step = _mm256_set1_epi32(8);
  __m256i tiebreaks =
      _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(static_cast<int>(first_tiebreak)));
  int64_t c = 0, used = *num_kept;
  const auto append = [&](__m256 lanes) {
    const __m256 wanted = bounded ? _mm256_cmp_ps(lanes, limit, _CMP_GT_OQ) : _mm256_cmp_ps(lanes, lanes, _CMP_ORD_Q);
    used += store_front(kept_tiebreaks + used, tiebreaks, static_cast<unsigned>(_mm256_movemask_ps(wanted)));
    tiebreaks = _mm256_add_epi32(tiebreaks, step);
  };
  for (; c + 8 <= count && used + kPanelWidth <= capacity; c += 8) append(_mm256_loadu_ps(scores + c));
  if (c < count && c + 8 > count && used + kPanelWidth <= capacity) {
    append(load(scores + c, count - c));
    c = count;
  }
  for (int64_t n = *num_kept; n < used; ++n) kept_scores[n] = scores[kept_tiebreaks[n] - first_tiebreak];
  *num_kept = used;
  return c;
}

int64_t find_entries(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits) {
  __m256i places = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  int64_t num_hits = 0;
  for (int64_t c = 0; c < count; c += 8) {  // lanes past the end are NaN
    const auto entering = static_cast<unsigned>(
        _mm256_movemask_ps(_mm256_cmp_ps(load(scores + c, count - c), load(entry_scores + c, count - c), _CMP_GE_OQ)));
    num_hits += store_front(hits + num_hits, places, entering);
    places = _mm256_add_epi32(places, _mm256_set1_epi32(8));
  }
  return num_hits;
}

int64_t filter(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best) {
  const __m256 limit = _mm256_set1_ps(cut.score);
  int64_t num_kept = 0, num_equal = 0;
  for (int64_t c = 0; c < count; c += 8) {
    const unsigned inside = count - c >= 8 ? 0xFF : (1u << (count - c)) - 1;
    const __m256 lanes = _mm256_loadu_ps(scores + c);
    const __m256i ties = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tiebreaks + c));
    const auto compare = [&](__m256 wanted) { return inside & static_cast<unsigned>(_mm256_movemask_ps(wanted)); };
    const unsigned equal = compare(_mm256_cmp_ps(lanes, limit, _CMP_EQ_OQ));
    unsigned best = compare(_mm256_cmp_ps(lanes, limit, _CMP_GT_OQ));
    if (equal != 0) best |= first_set_bits(equal, cut.num_equal - num_equal);
    num_equal += __builtin_popcount(equal);
    const unsigned kept = keep_best ? best : inside & ~best;
    store_front(reinterpret_cast<uint32_t*>(scores + num_kept), _mm256_castps_si256(lanes), kept);
    num_kept += store_front(tiebreaks + num_kept, ties, kept);
  }
  return num_kept;
}

void find_places(const uint64_t* ranks, int64_t count, uint32_t* places) {
  const __m256i sign = _mm256_set1_epi64x(INT64_MIN);  // the comparison is a signed one
  for (int64_t i = 0; i < count; i += 4) {
    alignas(32) uint64_t own[4] = {}, below[4];
    const int64_t size = count - i < 4 ? count - i : 4;
    for (int64_t lane = 0; lane < size; ++lane) own[lane] = ranks[i + lane];
    const __m256i lanes = _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(own)), sign);
    __m256i num_below = _mm256_setzero_si256();
    for (int64_t j = 0; j < count; ++j) {
      const __m256i other = _mm256_xor_si256(_mm256_set1_epi64x(static_cast<int64_t>(ranks[j])), sign);
      num_below = _mm256_sub_epi64(num_below, _mm256_cmpgt_epi64(lanes, other));  // true is -1
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(below), num_below);
    for (int64_t lane = 0; lane < size; ++lane) places[i + lane] = static_cast<uint32_t>(below[lane]);
  }
}

// Four blocks at a time, a counter word in the low half of each 64-bit lane; what is in the high halves is never read.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  const auto broadcast = [](uint32_t value) { return _mm256_set1_epi64x(value); };
  for (int b = 0; b < num_blocks; b += 4) {
    const __m256i in_order = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets + b));
    const __m256i offset = _mm256_permute4x64_epi64(in_order, _MM_SHUFFLE(3, 1, 2, 0));  // which unpacking undoes
    __m256i w0 = broadcast(c0), w1 = broadcast(c1);
    __m256i w2 = _mm256_add_epi32(broadcast(c2), offset);
    __m256i w3 = _mm256_add_epi32(broadcast(c3), _mm256_srli_epi64(offset, 32));
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m256i product0 = _mm256_mul_epu32(w0, broadcast(kPhiloxFactor0));
      const __m256i product1 = _mm256_mul_epu32(w2, broadcast(kPhiloxFactor1));
      w0 = _mm256_xor_si256(_mm256_srli_epi64(product1, 32), _mm256_xor_si256(w1, broadcast(k0)));
      w1 = product1;
      w2 = _mm256_xor_si256(_mm256_srli_epi64(product0, 32), _mm256_xor_si256(w3, broadcast(k1)));
      w3 = product0;
      k0 += kPhiloxKeyStep0;
      k1 += kPhiloxKeyStep1;
    }
    const __m256i first = _mm256_blend_epi32(w0, _mm256_slli_epi64(w1, 32), 0xAA);
    const __m256i second = _mm256_blend_epi32(w2, _mm256_slli_epi64(w3, 32), 0xAA);
    auto* out = reinterpret_cast<__m256i*>(words + 4 * b);
    _mm256_storeu_si256(out, _mm256_unpacklo_epi64(first, second));
    _mm256_storeu_si256(out + 1, _mm256_unpackhi_epi64(first, second));
  }
}

// Eight rows at a time, the lanes along the row; the rows after the next are on their way meanwhile.
void gather_dots(const float* row, const float* base, int64_t row_stride, int64_t dim, const int64_t* ids,
                 int64_t count, float* out) {
  constexpr int64_t kAhead = 16, kElementsPerLine = 16, kMaxLines = 32;
  const int64_t fetched = dim < kMaxLines * kElementsPerLine ? dim : kMaxLines * kElementsPerLine;
  const int64_t whole = dim / 8 * 8;
  const auto row_of = [&](int64_t c) { return base + ids[c < count ? c : count - 1] * row_stride; };
  for (int64_t first = 0; first < count; first += 8) {
    const float* rows[8];
    for (int i = 0; i < 8; ++i) {
      rows[i] = row_of(first + i);
      const float* ahead = row_of(first + kAhead + i);
      for (int64_t k = 0; k < fetched; k += kElementsPerLine) _mm_prefetch(ahead + k, _MM_HINT_T0);
    }
    __m256 sums[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] = _mm256_setzero_ps();
    for (int64_t k = 0; k < whole; k += 8) {
      const __m256 own = _mm256_loadu_ps(row + k);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sums[i] = _mm256_fmadd_ps(own, _mm256_loadu_ps(rows[i] + k), sums[i]);
    }
    const int64_t size = count - first < 8 ? count - first : 8;
    for (int i = 0; i < size; ++i) {
      float sum = Counting::reduce(sums[i]);
      for (int64_t k = whole; k < dim; ++k) sum = fmaf(row[k], rows[i][k], sum);
      out[first + i] = sum;
    }
  }
}

}  // namespace

const KernelTable kAvx2Kernels = {"avx2",
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

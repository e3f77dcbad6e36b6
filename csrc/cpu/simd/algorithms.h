// Kernels that all SIMD files share, as templates over the vector operations of an instruction set.
//
// Each SIMD file includes this one and compiles it for its own instruction set. Include it only there: everything is in
// an anonymous namespace. A SIMD file supplies three template arguments.
//
// Simd, a struct of static members:
//   kLanes, kPanelWidth, kRowTile         floats of a vector; columns of a panel; rows of a register tile
//   Vector, Words                         types of kLanes floats and of kLanes 32-bit words
//   zero(), broadcast(x)                  all lanes are 0; all lanes are x
//   load(p), load(p, left), store(p, v)   p need not be aligned; lanes from `left` on are NaN and not read; `left` >= 1
//                                         may exceed kLanes
//   broadcast_element(p), add(s, a, b)    an element of a row in all lanes; s + a b, fused
//   load_words(p), words_from(x), next(w) words at p; x, x + 1, ...; each word plus kLanes
//   mask_above(a, b), mask_at_least(a, b), mask_equal(a, b)
//                                         bit i tells whether a > b, a >= b or a == b in lane i; not if one is NaN
//   store_front(p, v, mask)               moves the lanes of the mask to the front and stores a whole vector, of floats
//                                         or words; returns the number of lanes in the mask
// For philox_rounds(), in the layout of counters that philox_blocks() of the SIMD file chooses:
//   multiply(w, factor)                   a struct {high, low} of the two halves of each product of 32 by 32 bits
//   exclusive_or(a, b, key)               a ^ b ^ key for each word
// For gather_dots(), which only prefilters and may add in any order:
//   Element, kElements, kGatheredRows     type of an element of a row; elements of a vector; rows at a time
//   load_elements(p), load_elements(p, left)   kElements elements; those from `left` on are 0 and not read
//   add_elements(s, a, b)                 s plus the products of the elements of a and b, each added to some lane
//   write_sums(sums, n, out)              out[i] = sum of the lanes of sums[i] for i < n; 1 <= n <= kGatheredRows
//
// Counting, a struct of static functions of scores: [count]
//   statistics(scores, count)             RowStatistics; scores may be NaN
//   count_above(scores, count, x)         number of scores > x, without NaN
//   extremes(scores, count, &low, &high)  writes the lowest and the highest score; count >= 1, no score is NaN
//
// Pairs, as Simd, but each 32-bit element of a row or a panel is a pair of bfloat16. It is void if the instruction set
// cannot multiply these. Its sums may be rounded in any way within csrc/common/prefilter_bound.h. Members that differ:
//   broadcast_element(p), add(s, a, b)    a pair of a row in all lanes; s plus the two products of each lane
//   Element, kElements                    uint16_t, 2 kLanes; load_elements() and add_elements() take these
//
// Bytes: see gather_bytes.h. It is void if the instruction set has no gather_byte_dots().
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/philox.h"
#include "common/score.h"
#include "cpu/simd/gather_bytes.h"
#include "cpu/simd/kernel_table.h"

namespace bse {
namespace {

// Implements KernelTable::squared_norms.
template <int kPanelWidth>
inline void squared_norms(const float* panel, int64_t depth, bool resume, float* norms) {
  float chains[kPanelWidth];
  for (int c = 0; c < kPanelWidth; ++c) chains[c] = resume ? norms[c] : 0.0f;
  for (int64_t k = 0; k < depth; ++k, panel += kPanelWidth) {
    for (int c = 0; c < kPanelWidth; ++c) chains[c] = fmaf(panel[c], panel[c], chains[c]);
  }
  for (int c = 0; c < kPanelWidth; ++c) norms[c] = chains[c];
}

// Implements KernelTable::finish_scores. The metric is constant in each loop, so that the compiler vectorizes it.
inline void finish_score_row(Metric metric, float row_norm, const float* norms, int64_t count, float* acc) {
  if (metric == Metric::kCosine) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kCosine, acc[c], row_norm, norms[c]);
  } else if (metric == Metric::kL2) {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kL2, acc[c], row_norm, norms[c]);
  } else {
    for (int64_t c = 0; c < count; ++c) acc[c] = finish_score(Metric::kInnerProduct, acc[c], row_norm, norms[c]);
  }
}

// Multiplies kRows rows by one panel, in registers. Arguments as KernelTable::accumulate.
template <class Simd, int kRows>
inline void accumulate_tile(const float* const* rows, const float* panel, int64_t depth, bool resume, float* acc,
                            int64_t acc_stride) {
  constexpr int kLanes = Simd::kLanes, kVectors = Simd::kPanelWidth / kLanes;
  typename Simd::Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = resume ? Simd::load(acc + i * acc_stride + kLanes * v) : Simd::zero();
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename Simd::Vector candidates[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) candidates[v] = Simd::load(panel + k * Simd::kPanelWidth + kLanes * v);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const auto element = Simd::broadcast_element(rows[i] + k);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Simd::add(sums[i][v], element, candidates[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Simd::store(acc + i * acc_stride + kLanes * v, sums[i][v]);
  }
}

// Calls accumulate_tile() for num_rows rows, 1 to kRows.
template <class Simd, int kRows>
inline void accumulate_rows(int num_rows, const float* const* rows, const float* panel, int64_t depth, bool resume,
                            float* acc, int64_t acc_stride) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return accumulate_rows<Simd, kRows - 1>(num_rows, rows, panel, depth, resume, acc, acc_stride);
    }
  }
  accumulate_tile<Simd, kRows>(rows, panel, depth, resume, acc, acc_stride);
}

// Implements KernelTable::accumulate.
template <class Simd>
void accumulate(const float* const* rows, int num_rows, const float* panels, int num_panels, int64_t depth, bool resume,
                float* acc, int64_t acc_stride) {
  for (int p = 0; p < num_panels; ++p) {
    const float* panel = panels + p * depth * Simd::kPanelWidth;
    for (int i = 0; i < num_rows; i += Simd::kRowTile) {
      const int tile_rows = num_rows - i < Simd::kRowTile ? num_rows - i : Simd::kRowTile;
      accumulate_rows<Simd, Simd::kRowTile>(tile_rows, rows + i, panel, depth, resume,
                                            acc + i * acc_stride + p * Simd::kPanelWidth, acc_stride);
    }
  }
}

// Statistics of the scores that are not NaN.
struct RowStatistics {
  float sum = 0.0f, sum_of_squares = 0.0f;
  int64_t count = 0;
};

// Returns the z that a standard normal variable exceeds with probability p (Abramowitz and Stegun 26.2.23, error below
// 5e-4).
inline float normal_quantile_above(float p) {
  const float tail = p < 0.5f ? p : 1.0f - p;
  const float t = sqrtf(-2.0f * logf(tail));
  const float z =
      t - (2.515517f + t * (0.802853f + t * 0.010328f)) / (1.0f + t * (1.432788f + t * (0.189269f + t * 0.001308f)));
  return p < 0.5f ? z : -z;
}

// Implements KernelTable::guess_threshold. The first guess assumes that scores have a normal distribution. Newton steps
// on the number of scores above the guess improve it, with the slope of this distribution. They stay between the last
// guess that enough scores are above and the last one that too few are above.
template <class Counting>
inline bool guess_from_counts(const float* scores, int64_t count, int64_t num_wanted, float* threshold) {
  constexpr int kMaxSteps = 8;
  const RowStatistics row = Counting::statistics(scores, count);
  if (row.count <= num_wanted) return false;
  const int64_t slack = num_wanted / 4 > 16 ? num_wanted / 4 : 16;
  const float size = static_cast<float>(row.count);
  const float target = static_cast<float>(num_wanted) + 0.5f * static_cast<float>(slack);
  if (target >= size) return false;
  const float mean = row.sum / size;
  const float variance = row.sum_of_squares / size - mean * mean;
  if (!(variance > 0.0f && variance < 1e30f)) return false;  // all equal, infinite
  const float deviation = sqrtf(variance);
  const float z = normal_quantile_above(target / size);
  const float density = size * 0.3989423f * expf(-0.5f * z * z) / deviation;  // scores per unit of the threshold

  bool has_low = false, has_high = false;
  float low = 0.0f, high = 0.0f, guess = mean + z * deviation;
  for (int step = 0; step < kMaxSteps; ++step) {
    const int64_t above = Counting::count_above(scores, count, guess);
    if (above >= num_wanted) {
      has_low = true;
      low = guess;
      if (above <= num_wanted + slack) break;
    } else {
      has_high = true;
      high = guess;
    }
    guess += (static_cast<float>(above) - target) / density;
    const bool is_outside = (has_low && !(guess > low)) || (has_high && !(guess < high));
    if (is_outside) {
      if (!has_low || !has_high) return false;
      guess = 0.5f * (low + high);
      if (!(guess > low && guess < high)) break;
    }
  }
  *threshold = low;
  return has_low;
}

// Returns the lowest `count` set bits.
inline unsigned first_set_bits(unsigned bits, int64_t count) {
  unsigned first = 0;
  for (; count > 0 && bits != 0; --count, bits &= bits - 1) first |= bits & (0u - bits);
  return first;
}

// Implements KernelTable::find_cut by regula falsi on the number of scores above a threshold. After kNumInterpolations
// steps, every other step bisects the ordered_bits() of the floats in between. The search ends when exactly num_best
// scores are above, or when two neighboring floats are left.
template <class Counting>
inline TopKCut find_cut_by_counts(const float* scores, int64_t count, int64_t num_best) {
  constexpr int kNumInterpolations = 8;
  float low, high;
  Counting::extremes(scores, count, &low, &high);
  uint32_t low_key = ordered_bits(low) - 1, high_key = ordered_bits(high);
  int64_t above_low = count, above_high = 0;  // above_low > num_best (or nothing is to be cut) > above_high
  for (int step = 0; high_key - low_key > 1; ++step) {
    float middle =
        low + (high - low) * (static_cast<float>(above_low - num_best) / static_cast<float>(above_low - above_high));
    uint32_t middle_key = ordered_bits(middle + 0.0f);
    const bool is_between = middle_key > low_key && middle_key < high_key;  // no if an extreme is infinite
    if (!is_between || (step >= kNumInterpolations && step % 2 == 0)) {
      middle_key = low_key + (high_key - low_key) / 2;
      middle = from_ordered_bits(middle_key);
    }
    const int64_t above = Counting::count_above(scores, count, middle);
    if (above == num_best) return {middle, 0};
    if (above > num_best) {
      low = middle;
      low_key = middle_key;
      above_low = above;
    } else {
      high = middle;
      high_key = middle_key;
      above_high = above;
    }
  }
  return {high, num_best - above_high};
}

// Implements KernelTable::collect. Appends only tiebreaks at first and fetches their scores afterwards. So it takes one
// unaligned store per vector instead of two.
template <class Simd>
int64_t collect(const float* scores, int64_t count, uint32_t first_tiebreak, bool bounded, float threshold,
                float* kept_scores, uint32_t* kept_tiebreaks, int64_t* num_kept, int64_t capacity) {
  const auto limit = Simd::broadcast(threshold);
  auto tiebreaks = Simd::words_from(first_tiebreak);
  int64_t c = 0, used = *num_kept;
  const auto append = [&](const auto& lanes) {
    const unsigned wanted = bounded ? Simd::mask_above(lanes, limit) : Simd::mask_equal(lanes, lanes);
    used += Simd::store_front(kept_tiebreaks + used, tiebreaks, wanted);
    tiebreaks = Simd::next(tiebreaks);
  };
  const auto has_room = [&] { return used + Simd::kPanelWidth <= capacity; };
  for (; c + Simd::kLanes <= count && has_room(); c += Simd::kLanes) append(Simd::load(scores + c));
  if (c < count && c + Simd::kLanes > count && has_room()) {
    append(Simd::load(scores + c, count - c));
    c = count;
  }
  for (int64_t n = *num_kept; n < used; ++n) kept_scores[n] = scores[kept_tiebreaks[n] - first_tiebreak];
  *num_kept = used;
  return c;
}

// Implements KernelTable::find_entries.
template <class Simd>
int64_t find_entries(const float* scores, const float* entry_scores, int64_t count, uint32_t* hits) {
  auto places = Simd::words_from(0);
  int64_t num_hits = 0;
  for (int64_t c = 0; c < count; c += Simd::kLanes) {
    const auto lanes = Simd::load(scores + c, count - c), limits = Simd::load(entry_scores + c, count - c);
    num_hits += Simd::store_front(hits + num_hits, places, Simd::mask_at_least(lanes, limits));
    places = Simd::next(places);
  }
  return num_hits;
}

// Implements KernelTable::filter.
template <class Simd>
int64_t filter(float* scores, uint32_t* tiebreaks, int64_t count, TopKCut cut, bool keep_best) {
  constexpr unsigned kAllLanes = (1u << Simd::kLanes) - 1;
  const auto limit = Simd::broadcast(cut.score);
  int64_t num_kept = 0, num_equal = 0;
  for (int64_t c = 0; c < count; c += Simd::kLanes) {
    const unsigned inside = count - c >= Simd::kLanes ? kAllLanes : (1u << (count - c)) - 1;
    const auto lanes = Simd::load(scores + c);
    const auto ties = Simd::load_words(tiebreaks + c);
    const unsigned equal = inside & Simd::mask_equal(lanes, limit);
    unsigned best = inside & Simd::mask_above(lanes, limit);
    if (equal != 0) best |= first_set_bits(equal, cut.num_equal - num_equal);
    num_equal += __builtin_popcount(equal);
    const unsigned kept = keep_best ? best : inside & ~best;
    Simd::store_front(scores + num_kept, lanes, kept);
    num_kept += Simd::store_front(tiebreaks + num_kept, ties, kept);
  }
  return num_kept;
}

// Computes the rounds of Philox (csrc/common/philox.h) on counters (w[0], w[1], w[2], w[3]), in place.
template <class Simd>
inline void philox_rounds(uint64_t key, typename Simd::Words (&w)[4]) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const auto product0 = Simd::multiply(w[0], kPhiloxFactor0), product1 = Simd::multiply(w[2], kPhiloxFactor1);
    w[0] = Simd::exclusive_or(product1.high, w[1], k0);
    w[1] = product1.low;
    w[2] = Simd::exclusive_or(product0.high, w[3], k1);
    w[3] = product0.low;
    k0 += kPhiloxKeyStep0;
    k1 += kPhiloxKeyStep1;
  }
}

// Implements KernelTable::gather_dots and gather_bfloat16_dots. Takes kRows rows at a time, with lanes along the row,
// and prefetches the rows that come kAhead later.
template <class Simd, class Element = typename Simd::Element>
void gather_dots(const Element* row, const Element* base, int64_t row_stride, int64_t dim, const int64_t* ids,
                 int64_t count, float* out) {
  constexpr int kRows = Simd::kGatheredRows;
  constexpr int64_t kAhead = 16, kElementsPerLine = 64 / sizeof(Element), kMaxLines = 32;
  const int64_t fetched = dim < kMaxLines * kElementsPerLine ? dim : kMaxLines * kElementsPerLine;
  const int64_t whole = dim / Simd::kElements * Simd::kElements;
  const auto row_of = [&](int64_t c) { return base + ids[c < count ? c : count - 1] * row_stride; };
  for (int64_t first = 0; first < count; first += kRows) {
    const Element* rows[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      rows[i] = row_of(first + i);
      const Element* ahead = row_of(first + kAhead + i);
      for (int64_t k = 0; k < fetched; k += kElementsPerLine) __builtin_prefetch(ahead + k);
    }
    typename Simd::Vector sums[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) sums[i] = Simd::zero();
    for (int64_t k = 0; k < whole; k += Simd::kElements) {
      const auto own = Simd::load_elements(row + k);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) sums[i] = Simd::add_elements(sums[i], own, Simd::load_elements(rows[i] + k));
    }
    if (whole < dim) {
      const auto own = Simd::load_elements(row + whole, dim - whole);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        sums[i] = Simd::add_elements(sums[i], own, Simd::load_elements(rows[i] + whole, dim - whole));
      }
    }
    Simd::write_sums(sums, count - first < kRows ? count - first : kRows, out + first);
  }
}

// Returns the table of an instruction set. The head of this file describes the template arguments. If Pairs is void,
// accumulate_pairs and gather_bfloat16_dots are null. If Bytes is void, gather_byte_dots is null.
template <class Simd, class Counting, class Pairs, class Bytes>
constexpr KernelTable kernel_table_of(const char* isa_name, decltype(KernelTable::pack_panel) pack_panel,
                                      decltype(KernelTable::philox_blocks) philox_blocks,
                                      decltype(KernelTable::find_places) find_places) {
  KernelTable table = {isa_name,
                       Simd::kPanelWidth,
                       pack_panel,
                       accumulate<Simd>,
                       nullptr,
                       squared_norms<Simd::kPanelWidth>,
                       finish_score_row,
                       guess_from_counts<Counting>,
                       collect<Simd>,
                       find_entries<Simd>,
                       find_cut_by_counts<Counting>,
                       filter<Simd>,
                       philox_blocks,
                       gather_dots<Simd>,
                       nullptr,
                       nullptr,
                       find_places};
  if constexpr (!std::is_void_v<Pairs>) {
    table.accumulate_pairs = accumulate<Pairs>;
    table.gather_bfloat16_dots = gather_dots<Pairs>;
  }
  if constexpr (!std::is_void_v<Bytes>) table.gather_byte_dots = gather_byte_dots<Bytes>;
  return table;
}

}  // namespace
}  // namespace bse

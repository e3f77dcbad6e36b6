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

// lanes[mask]: the lane that comes to each place when the lanes of the mask move to the front, one byte each.
struct CompressTable {
  alignas(64) uint64_t lanes[256] = {};
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

struct Avx2 {
  static constexpr int kLanes = 8, kPanelWidth = 16, kRowTile = 6;
  using Vector = __m256;
  using Words = __m256i;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(float value) { return _mm256_set1_ps(value); }
  static Vector broadcast_element(const float* element) { return _mm256_broadcast_ss(element); }
  static Vector load(const float* values) { return _mm256_loadu_ps(values); }
  static Vector load(const float* values, int64_t left) { return left >= 8 ? load(values) : padded(values, left); }
  static void store(float* values, Vector lanes) { _mm256_storeu_ps(values, lanes); }
  static Vector add(Vector sums, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sums); }

  static Words load_words(const uint32_t* words) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)); }
  static Words words_from(uint32_t first) {
    return _mm256_add_epi32(_mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), _mm256_set1_epi32(static_cast<int>(first)));
  }
  static Words next(Words words) { return _mm256_add_epi32(words, _mm256_set1_epi32(8)); }

  static unsigned mask_of(Vector wanted) { return static_cast<unsigned>(_mm256_movemask_ps(wanted)); }
  static unsigned mask_above(Vector a, Vector b) { return mask_of(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
  static unsigned mask_at_least(Vector a, Vector b) { return mask_of(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
  static unsigned mask_equal(Vector a, Vector b) { return mask_of(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }

  static int64_t store_front(uint32_t* target, Words lanes, unsigned mask) {
    const __m256i front = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kCompress.lanes[mask])));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_permutevar8x32_epi32(lanes, front));
    return __builtin_popcount(mask);
  }
  static int64_t store_front(float* target, Vector lanes, unsigned mask) {
    return store_front(reinterpret_cast<uint32_t*>(target), _mm256_castps_si256(lanes), mask);
  }

  // Philox: a counter word in the low half of each 64-bit lane. The high halves are never read.
  struct Product {
    Words high, low;
  };
  static Words broadcast_word(uint32_t value) { return _mm256_set1_epi64x(value); }
  static Product multiply(Words words, uint32_t factor) {
    const Words product = _mm256_mul_epu32(words, broadcast_word(factor));
    return {_mm256_srli_epi64(product, 32), product};
  }
  static Words exclusive_or(Words a, Words b, uint32_t key) {
    return _mm256_xor_si256(a, _mm256_xor_si256(b, broadcast_word(key)));
  }

  using Element = float;
  static constexpr int kElements = 8, kGatheredRows = 8;
  static Vector load_elements(const float* elements) { return load(elements); }
  static Vector load_elements(const float* elements, int64_t left) {
    const Words places = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_maskload_ps(elements, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left)), places));
  }
  static Vector add_elements(Vector sums, Vector a, Vector b) { return add(sums, a, b); }
  static void write_sums(const Vector* sums, int64_t num_rows, float* out) {
    for (int64_t i = 0; i < num_rows; ++i) out[i] = sum(sums[i]);
  }
  static float sum(Vector lanes) {
    alignas(32) float parts[8];
    _mm256_store_ps(parts, lanes);
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  }

 private:
  static Vector padded(const float* values, int64_t left) {
    alignas(32) float all[8];
    for (int i = 0; i < 8; ++i) all[i] = i < left ? values[i] : __builtin_nanf("");
    return _mm256_load_ps(all);
  }
};

struct Avx2Bytes {
  static constexpr int64_t kBytes = 32;
  using Vector = __m256i;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }
  static Vector add_products(Vector sums, Vector low, Vector high, Vector bytes) {
    const Vector even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(bytes, 8);
    return _mm256_add_epi32(sums, _mm256_add_epi32(_mm256_madd_epi16(low, even), _mm256_madd_epi16(high, odd)));
  }
  static void write_sums(const Vector* sums, int32_t offset, float scale, float* out) {
    const Vector all = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    const __m128i total = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    const __m128 dots = _mm_cvtepi32_ps(_mm_sub_epi32(total, _mm_set1_epi32(offset)));
    _mm_storeu_ps(out, _mm_mul_ps(dots, _mm_set1_ps(scale)));
  }
};

void pack_panel(const float* const* rows, int num_rows, int64_t depth, float* panel) {
  pack_columns(rows, num_rows, depth, Avx2::kPanelWidth, panel);
}

// The functions that algorithms.h calls Counting.
struct Counting {
  static RowStatistics statistics(const float* scores, int64_t count) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    RowStatistics row;
    for (int64_t c = 0; c < count; c += 8) {
      const __m256 lanes = Avx2::load(scores + c, count - c);
      const __m256 known = _mm256_cmp_ps(lanes, lanes, _CMP_ORD_Q);
      const __m256 values = _mm256_and_ps(lanes, known);
      sum = _mm256_add_ps(sum, values);
      squares = _mm256_fmadd_ps(values, values, squares);
      row.count += __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(known)));
    }
    row.sum = Avx2::sum(sum);
    row.sum_of_squares = Avx2::sum(squares);
    return row;
  }

  static void extremes(const float* scores, int64_t count, float* lowest, float* highest) {
    __m256 low = _mm256_set1_ps(scores[0]), high = low;
    for (int64_t c = 0; c < count; c += 8) {  // min and max of a NaN and a number, in this order, are the number
      const __m256 lanes = Avx2::load(scores + c, count - c);
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
      const __m256 wanted = _mm256_cmp_ps(Avx2::load(scores + c, count - c), limit, _CMP_GT_OQ);
      above = _mm256_sub_epi32(above, _mm256_castps_si256(wanted));  // true is -1
    }
    alignas(32) int32_t parts[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), above);
    int64_t total = 0;
    for (const int32_t part : parts) total += part;
    return total;
  }
};

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

// Four blocks at a time.
void philox_blocks(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, const BlockOffset* offsets,
                   int num_blocks, uint32_t* words) {
  const auto broadcast = Avx2::broadcast_word;
  for (int b = 0; b < num_blocks; b += 4) {
    const __m256i in_order = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets + b));
    const __m256i offset = _mm256_permute4x64_epi64(in_order, _MM_SHUFFLE(3, 1, 2, 0));  // undone by unpacking
    __m256i w[4] = {broadcast(c0), broadcast(c1), _mm256_add_epi32(broadcast(c2), offset),
                    _mm256_add_epi32(broadcast(c3), _mm256_srli_epi64(offset, 32))};
    philox_rounds<Avx2>(key, w);
    const __m256i first = _mm256_blend_epi32(w[0], _mm256_slli_epi64(w[1], 32), 0xAA);
    const __m256i second = _mm256_blend_epi32(w[2], _mm256_slli_epi64(w[3], 32), 0xAA);
    auto* out = reinterpret_cast<__m256i*>(words + 4 * b);
    _mm256_storeu_si256(out, _mm256_unpacklo_epi64(first, second));
    _mm256_storeu_si256(out + 1, _mm256_unpackhi_epi64(first, second));
  }
}

}  // namespace

constexpr KernelTable kAvx2Kernels =
    kernel_table_of<Avx2, Counting, void, Avx2Bytes>("avx2", pack_panel, philox_blocks, find_places);

}  // namespace bse

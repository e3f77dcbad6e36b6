// Packing of panels for the x86 instruction sets. Each of their files compiles its own copy (see algorithms.h).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bse {
namespace {

// Transposes 8 x 8 elements: panel[(k + i) * panel_width + r] = rows[r][k + i].
inline void transpose_8x8(const float* const* rows, int64_t k, int panel_width, float* panel) {
  __m256 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(rows[i] + k);
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i + 0] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_store_ps(panel + (k + i) * panel_width, _mm256_permute2f128_ps(r[i], r[4 + i], 0x20));
    _mm256_store_ps(panel + (k + 4 + i) * panel_width, _mm256_permute2f128_ps(r[i], r[4 + i], 0x31));
  }
}

// KernelTable::pack_panel for a panel_width that is a multiple of 8.
inline void pack_columns(const float* const* rows, int num_rows, int64_t depth, int panel_width, float* panel) {
  for (int column = 0; column < panel_width; column += 8) {
    int64_t k = 0;
    if (column >= num_rows) {
      for (; k < depth; ++k) _mm256_store_ps(panel + k * panel_width + column, _mm256_setzero_ps());
    }
    if (column + 8 <= num_rows) {
      for (; k + 8 <= depth; k += 8) transpose_8x8(rows + column, k, panel_width, panel + column);
    }
    for (; k < depth; ++k) {
      for (int c = column; c < column + 8; ++c) panel[k * panel_width + c] = c < num_rows ? rows[c][k] : 0.0f;
    }
  }
}

}  // namespace
}  // namespace bse

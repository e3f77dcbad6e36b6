// Products of int16 pairs by vpdpwssd of AVX-512 VNNI. Included by the files that are compiled with -mavx512vnni.
#pragma once

#include "cpu/simd/avx512_kernels.h"

namespace bse {
namespace {

struct Avx512Int16 {
  static constexpr int kLanes = Avx512::kLanes, kPanelWidth = Avx512::kPanelWidth, kRowTile = Avx512::kRowTile;
  typedef int32_t Vector __attribute__((vector_size(64)));  // gcc 12 spills accumulators of type __m512i

  static Vector broadcast_element(const float* pair) {
    int32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return (Vector)_mm512_set1_epi32(bits);
  }
  static Vector load(const float* pairs) { return (Vector)_mm512_loadu_si512(pairs); }
  static Vector add(Vector sums, Vector pair, Vector candidates) {
    return (Vector)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)pair, (__m512i)candidates);
  }
  static constexpr int64_t kMaxDepth = kFixedPointDepth;
  static Vector begin_sums(const float*, bool) { return Vector{}; }
  static void end_sums(float* target, bool resume, Vector sums) {
    const __m512 floats = _mm512_cvtepi32_ps((__m512i)sums);
    _mm512_storeu_ps(target, resume ? _mm512_add_ps(_mm512_loadu_ps(target), floats) : floats);
  }
};

}  // namespace
}  // namespace bse

// CUDA's arithmetic built-ins with a defined result. Approximate ones (rsqrtf, __expf, ...) are missing on purpose.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0F0F0F0Fu) | (x & 0x0F0F0F0Fu) << 4;
  return __builtin_bswap32(x);
}

// Byte i of the result is byte s of b:a, where s is the i-th hexadecimal digit of the selector. Digits above 7, which
// replicate a sign, are not supported.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

#define BSE_BIT_CAST(name, From, To)                               \
  inline To name(From from) {                                      \
    static_assert(sizeof(From) == sizeof(To), "reinterpretation"); \
    To to;                                                         \
    std::memcpy(&to, &from, sizeof to);                            \
    return to;                                                     \
  }
BSE_BIT_CAST(__float_as_uint, float, unsigned)
BSE_BIT_CAST(__float_as_int, float, int)
BSE_BIT_CAST(__uint_as_float, unsigned, float)
BSE_BIT_CAST(__int_as_float, int, float)
BSE_BIT_CAST(__double_as_longlong, double, long long)
BSE_BIT_CAST(__longlong_as_double, long long, double)
#undef BSE_BIT_CAST

// Correctly rounded, like the CPU's own instructions.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

template <class T>
T __ldg(const T* address) {
  return *address;
}

#define BSE_MIN_MAX(T)                             \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
BSE_MIN_MAX(int)
BSE_MIN_MAX(unsigned)
BSE_MIN_MAX(long)
BSE_MIN_MAX(unsigned long)
BSE_MIN_MAX(long long)
BSE_MIN_MAX(unsigned long long)
#undef BSE_MIN_MAX
// If one argument is NaN, the result is the other.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

// What this machine can do at most: the denominators of the benchmark's shares. One call runs on all given threads at
// once.
#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

template <class Work>
double seconds(int num_threads, const Work& work) {
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (std::thread& thread : threads) thread.join();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

#if defined(__AVX512F__)
using Lanes = __m512;
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes broadcast(float x) { return _mm512_set1_ps(x); }
#elif defined(__FMA__)
using Lanes = __m256;
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
inline Lanes broadcast(float x) { return _mm256_set1_ps(x); }
#else
using Lanes = float;
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return a * b + c; }
inline Lanes broadcast(float x) { return x; }
#endif

constexpr int kChains = 12;  // independent, enough to hide the latency of one

}  // namespace

extern "C" {

// float32 multiply-adds in registers: FLOP/s.
double peak_fma(int num_threads) {
  constexpr int64_t kSteps = 40'000'000;
  const double time = seconds(num_threads, [](int) {
    Lanes chain[kChains], a = broadcast(1.0001f), b = broadcast(0.9999f);
    for (Lanes& lane : chain) lane = broadcast(0.0f);
    for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) chain[i] = fma(a, b, chain[i]);
      asm volatile("" : "+x"(a), "+x"(b));
    }
    for (Lanes& lane : chain) asm volatile("" : "+x"(lane));
  });
  return 2.0 * kSteps * kChains * (sizeof(Lanes) / sizeof(float)) * num_threads / time;
}

// bfloat16 dot products of pairs into float32: FLOP/s; 0 where the processor has none.
double peak_bf16(int num_threads) {
#if defined(__AVX512BF16__)
  constexpr int64_t kSteps = 40'000'000;
  const double time = seconds(num_threads, [](int) {
    __m512 chain[kChains];
    __m512bh pair;
    const __m512i ones = _mm512_set1_epi16(0x3F80);
    std::memcpy(&pair, &ones, sizeof pair);
    for (__m512& lane : chain) lane = _mm512_setzero_ps();
    for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) chain[i] = _mm512_dpbf16_ps(chain[i], pair, pair);
      asm volatile("" : "+x"(pair));
    }
    for (__m512& lane : chain) asm volatile("" : "+x"(lane));
  });
  return 4.0 * kSteps * kChains * 16 * num_threads / time;
#else
  (void)num_threads;
  return 0;
#endif
}

// Copying between arrays beyond the caches: bytes read and written per second.
double peak_copy(int num_threads) {
  constexpr size_t kBytes = size_t{128} << 20;
  std::vector<std::vector<char>> from(num_threads), to(num_threads);
  for (int t = 0; t < num_threads; ++t) {
    from[t].assign(kBytes, 1);
    to[t].assign(kBytes, 2);
  }
  const double time = seconds(num_threads, [&](int t) {
    for (int repeat = 0; repeat < 4; ++repeat) std::memcpy(to[t].data(), from[t].data(), kBytes);
  });
  return 2.0 * 4 * kBytes * num_threads / time;
}

// Independent reads of random 64-byte lines of a table of `bytes`: lines per second.
double peak_random_reads(int num_threads, int64_t bytes) {
  const std::vector<uint64_t> table(static_cast<size_t>(bytes / 8), 1);
  const uint64_t num_lines = static_cast<uint64_t>(bytes) / 64;
  constexpr int64_t kReads = 20'000'000;
  std::vector<uint64_t> sums(static_cast<size_t>(num_threads) * 8);
  const double time = seconds(num_threads, [&](int t) {
    uint64_t state = 88172645463325252u + static_cast<uint64_t>(t), sum = 0;
    for (int64_t i = 0; i < kReads; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += table[((state >> 32) * num_lines >> 32) * 8];
    }
    sums[static_cast<size_t>(t) * 8] = sum;
  });
  return static_cast<double>(kReads) * num_threads / time;
}

}  // extern "C"

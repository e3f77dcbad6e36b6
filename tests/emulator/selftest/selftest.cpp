// Compares every built-in of csrc/cuda/runtime/device.h and ptx.h with known answers.
//
// Compiled by g++, it tests the emulator under several schedules. Compiled by nvcc (-x cu) and run on a GPU, it tests
// that the device gives the same answers.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"
#include "kernels/device_array.h"

namespace {

using namespace bse;
using test::DeviceArray;

int num_failures = 0;

#define EXPECT(condition)                                                                          \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      if (++num_failures <= 20) std::printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                                              \
  } while (false)

constexpr unsigned kAllLanes = ~0u;

// ---- indices of threads and blocks

__global__ void identity_kernel(int* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = static_cast<int>(1000 * block + thread);
}

void test_identity() {
  DeviceArray<int> out(12 * 60, -1);
  device::launch(identity_kernel, dim3(3, 2, 2), dim3(5, 4, 3), 0, nullptr, out.data());
  const std::vector<int> found = out.to_host();
  for (int i = 0; i < 12 * 60; ++i) EXPECT(found[i] == 1000 * (i / 60) + i % 60);
}

// ---- warps

enum WarpResult {
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kShuffleXorAll,
  kShuffleNegative,
  kReduceAdd,
  kReduceMin,
  kReduceMax,
  kReduceMaxUnsigned,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kBallot,
  kAny,
  kAll,
  kMatch,
  kMatch64,
  kHalf,
  kShuffleFloat,
  kShuffleDouble,
  kShuffle64,
  kNumWarpResults
};

__global__ void warp_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int* own = out + threadIdx.x * kNumWarpResults;
  own[kShuffle] = __shfl_sync(kAllLanes, lane, 5, 8);
  own[kShuffleUp] = __shfl_up_sync(kAllLanes, lane, 3, 8);
  own[kShuffleDown] = __shfl_down_sync(kAllLanes, lane, 3, 8);
  own[kShuffleXor] = __shfl_xor_sync(kAllLanes, lane, 4, 8);
  own[kShuffleXorAll] = __shfl_xor_sync(kAllLanes, lane, 31);
  own[kShuffleNegative] = __shfl_sync(kAllLanes, lane, -1);
  own[kReduceAdd] = __reduce_add_sync(kAllLanes, lane);
  own[kReduceMin] = __reduce_min_sync(kAllLanes, 5 - lane);
  own[kReduceMax] = __reduce_max_sync(kAllLanes, lane - 7);
  own[kReduceMaxUnsigned] = static_cast<int>(__reduce_max_sync(kAllLanes, static_cast<unsigned>(lane - 1)));
  own[kReduceAnd] = static_cast<int>(__reduce_and_sync(kAllLanes, 0xF0u | static_cast<unsigned>(lane)));
  own[kReduceOr] = static_cast<int>(__reduce_or_sync(kAllLanes, 1u << (lane & 3)));
  own[kReduceXor] = static_cast<int>(__reduce_xor_sync(kAllLanes, lane < 3 ? 1u << lane : 8u));
  own[kBallot] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  own[kAny] = __any_sync(kAllLanes, lane == 77) + 2 * __any_sync(kAllLanes, lane == 7);
  own[kAll] = __all_sync(kAllLanes, lane < 31) + 2 * __all_sync(kAllLanes, lane < 32);
  own[kMatch] = static_cast<int>(__match_any_sync(kAllLanes, lane % 5));
  own[kMatch64] = static_cast<int>(__match_any_sync(kAllLanes, uint64_t{1} << (lane / 16 + 40)));
  if (lane % 2 == 1) {
    own[kHalf] = __reduce_add_sync(0xAAAAAAAAu, lane);
  } else {
    own[kHalf] = __shfl_xor_sync(0x55555555u, lane, 2);
  }
  own[kShuffleFloat] = static_cast<int>(__shfl_sync(kAllLanes, 0.5f * static_cast<float>(lane), 9) * 2.0f);
  own[kShuffleDouble] = static_cast<int>(__shfl_down_sync(kAllLanes, 0.25 * lane, 1) * 4.0);
  own[kShuffle64] = static_cast<int>(__shfl_xor_sync(kAllLanes, uint64_t(lane) << 40, 1) >> 40);
}

void test_warp() {
  DeviceArray<int> out(64 * kNumWarpResults);
  device::launch(warp_kernel, dim3(1), dim3(64), 0, nullptr, out.data());
  const std::vector<int> found = out.to_host();
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int* own = found.data() + thread * kNumWarpResults;
    unsigned matches = 0, thirds = 0;
    for (int i = 0; i < 32; ++i) {
      if (i % 5 == lane % 5) matches |= 1u << i;
      if (i % 3 == 0) thirds |= 1u << i;
    }
    EXPECT(own[kShuffle] == (lane & ~7) + 5);
    EXPECT(own[kShuffleUp] == (lane % 8 >= 3 ? lane - 3 : lane));
    EXPECT(own[kShuffleDown] == (lane % 8 < 5 ? lane + 3 : lane));
    EXPECT(own[kShuffleXor] == (lane ^ 4));
    EXPECT(own[kShuffleXorAll] == 31 - lane);
    EXPECT(own[kShuffleNegative] == 31);
    EXPECT(own[kReduceAdd] == 496);
    EXPECT(own[kReduceMin] == -26);
    EXPECT(own[kReduceMax] == 24);
    EXPECT(own[kReduceMaxUnsigned] == -1);
    EXPECT(own[kReduceAnd] == 0xF0);
    EXPECT(own[kReduceOr] == 15);
    EXPECT(own[kReduceXor] == (1 ^ 2 ^ 4 ^ 8));
    EXPECT(own[kBallot] == static_cast<int>(thirds));
    EXPECT(own[kAny] == 2);
    EXPECT(own[kAll] == 2);
    EXPECT(own[kMatch] == static_cast<int>(matches));
    EXPECT(own[kMatch64] == static_cast<int>(lane < 16 ? 0x0000FFFFu : 0xFFFF0000u));
    EXPECT(own[kHalf] == (lane % 2 == 1 ? 256 : (lane ^ 2)));
    EXPECT(own[kShuffleFloat] == 9);
    EXPECT(own[kShuffleDouble] == (lane < 31 ? lane + 1 : 31));
    EXPECT(own[kShuffle64] == (lane ^ 1));
  }
}

// Lanes loop different numbers of times, and the last warp may not be full.
__global__ void divergent_kernel(int* out) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  int sum = 0;
  for (unsigned mask = __ballot_sync(blockDim.x - thread + lane >= 32 ? kAllLanes : (1u << blockDim.x % 32) - 1, true),
                i = 0;
       __any_sync(mask, i < static_cast<unsigned>(lane)); ++i) {
    const bool is_in = i < static_cast<unsigned>(lane);
    const unsigned members = __ballot_sync(mask, is_in);
    if (is_in) sum += __popc(members) + __shfl_sync(members, lane, __ffs(static_cast<int>(members)) - 1);
    __syncwarp(mask);
  }
  out[thread] = sum;
}

void test_divergence() {
  const int sizes[] = {1, 31, 32, 33, 50, 96};
  for (const int size : sizes) {
    DeviceArray<int> out(static_cast<size_t>(size), -1);
    device::launch(divergent_kernel, dim3(1), dim3(static_cast<unsigned>(size)), 0, nullptr, out.data());
    const std::vector<int> found = out.to_host();
    for (int thread = 0; thread < size; ++thread) {
      const int lane = thread % 32, num_lanes = size - thread + lane < 32 ? size % 32 : 32;
      int sum = 0;
      for (int i = 0; i < lane; ++i) sum += num_lanes - 1 - i + i + 1;  // lanes above i; the first of them is i + 1
      EXPECT(found[thread] == sum);
    }
  }
}

// ---- blocks

// Thread 47 exits first: barriers do not wait for it.
__global__ void barrier_kernel(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 47) return;
  out[4 * thread] = __syncthreads_count(thread & 1);
  out[4 * thread + 1] = (__syncthreads_or(thread == 3) != 0) + 2 * (__syncthreads_or(thread == 47) != 0);
  out[4 * thread + 2] = (__syncthreads_and(thread != 47) != 0) + 2 * (__syncthreads_and(thread != 3) != 0);
}

void test_barriers() {
  DeviceArray<int> out(4 * 60, -1);
  device::launch(barrier_kernel, dim3(1), dim3(60), 0, nullptr, out.data());
  const std::vector<int> found = out.to_host();
  for (int thread = 0; thread < 60; ++thread) {
    EXPECT(found[4 * thread] == (thread == 47 ? -1 : 29));
    EXPECT(found[4 * thread + 1] == (thread == 47 ? -1 : 1));
    EXPECT(found[4 * thread + 2] == (thread == 47 ? -1 : 1));
  }
}

// Exchanges static shared memory across the block in rounds, and uses dynamic shared memory.
__global__ void shared_kernel(int num_rounds, int* out) {
  BSE_SHARED(int, table, [2][128]);
  BSE_SHARED(int, total);
  device::SharedMemory shared;
  uint16_t* const shorts = shared.take<uint16_t>(129);
  float4* const vectors = shared.take<float4>(2);
  const unsigned thread = threadIdx.x;
  if (thread == 0) total = 0;
  if (thread < 2) vectors[thread] = make_float4(1.0f, 2.0f, 3.0f, static_cast<float>(thread));
  shorts[thread] = static_cast<uint16_t>(3 * thread);
  if (thread == 0) shorts[128] = 7;
  table[0][thread] = static_cast<int>(thread);
  __syncthreads();
  for (int round = 0; round < num_rounds; ++round) {
    table[(round + 1) % 2][thread] = table[round % 2][(thread + 1) % 128];
    __syncthreads();
  }
  atomicAdd(&total, shorts[127 - thread]);
  __syncthreads();
  out[blockIdx.x * 128 + thread] = table[num_rounds % 2][thread] + 1000 * total + shorts[128] +
                                   static_cast<int>(vectors[1].w) + static_cast<int>(vectors[0].z);
}

void test_shared() {
  constexpr int kBlocks = 7, kRounds = 10;
  DeviceArray<int> out(kBlocks * 128, -1);
  const size_t bytes = device::shared_bytes<uint16_t>(129) + device::shared_bytes<float4>(2);
  EXPECT(bytes == 272 + 32);
  device::launch(shared_kernel, dim3(kBlocks), dim3(128), bytes, nullptr, kRounds, out.data());
  const std::vector<int> found = out.to_host();
  for (int i = 0; i < kBlocks * 128; ++i) {
    EXPECT(found[i] == (i + kRounds) % 128 + 1000 * 3 * 127 * 64 + 7 + 1 + 3);
  }
}

__global__ void large_shared_kernel(int count, int* out) {
  device::SharedMemory shared;
  int* const values = shared.take<int>(static_cast<size_t>(count));
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 32) values[i] = i;
  __syncwarp();
  if (threadIdx.x == 0) *out = values[count - 1];
}

void test_large_shared() {
  DeviceArray<int> out(1, -1);
  const size_t count = device::max_shared_bytes() / sizeof(int);
  device::launch(large_shared_kernel, dim3(1), dim3(32), device::shared_bytes<int>(count), nullptr,
                 static_cast<int>(count), out.data());
  const std::vector<int> found = out.to_host();
  EXPECT(found[0] == static_cast<int>(count) - 1);
}

// ---- atomics, order between blocks

struct Counters {
  int sum, minimum, maximum, last, compared;
  unsigned any, all, unsigned_maximum, wrapped;
  uint64_t sum64, minimum64, maximum64, any64, all64, compared64;
  float sum_float;
};

__global__ void atomics_kernel(Counters* counters) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const auto wide = static_cast<uint64_t>(i);
  atomicAdd(&counters->sum, i);
  atomicMin(&counters->minimum, -i);
  atomicMax(&counters->maximum, i - 1000);
  atomicMax(&counters->unsigned_maximum, static_cast<unsigned>(-1 - i));
  atomicExch(&counters->last, 4711);
  atomicOr(&counters->any, 1u << i % 32);
  atomicAnd(&counters->all, ~(1u << i % 16));
  atomicAdd(&counters->wrapped, 0x80000000u);
  atomicAdd(&counters->sum64, wide << 32);
  atomicMin(&counters->minimum64, (wide + 1) << 33);
  atomicMax(&counters->maximum64, wide << 34);
  atomicOr(&counters->any64, uint64_t{1} << i % 64);
  atomicAnd(&counters->all64, ~(uint64_t{1} << i % 64));
  atomicAdd(&counters->sum_float, 0.5f);
  for (int old = 0, seen = -1; seen != old;) {  // adds 3 by compare and swap
    old = seen == -1 ? 0 : seen;
    seen = atomicCAS(&counters->compared, old, old + 3);
  }
  atomicCAS(&counters->compared64, uint64_t{5} << 40, uint64_t{9} << 40);
}

void test_atomics() {
  constexpr int kThreads = 5 * 64;
  const Counters zero{0, 0, -5000, 0, 0, 0, ~0u, 0, 0, 0, ~uint64_t{0}, 0, 0, ~uint64_t{0}, uint64_t{5} << 40, 0.0f};
  DeviceArray<Counters> counters(1, zero);
  device::launch(atomics_kernel, dim3(5), dim3(64), 0, nullptr, counters.data());
  const Counters got = counters.to_host()[0];
  EXPECT(got.sum == kThreads * (kThreads - 1) / 2);
  EXPECT(got.minimum == 1 - kThreads);
  EXPECT(got.maximum == kThreads - 1001);
  EXPECT(got.unsigned_maximum == ~0u);
  EXPECT(got.last == 4711);
  EXPECT(got.any == ~0u);
  EXPECT(got.all == 0xFFFF0000u);
  EXPECT(got.wrapped == 0);
  EXPECT(got.sum64 == uint64_t(kThreads * (kThreads - 1) / 2) << 32);
  EXPECT(got.minimum64 == uint64_t{1} << 33);
  EXPECT(got.maximum64 == uint64_t{kThreads - 1} << 34);
  EXPECT(got.any64 == ~uint64_t{0});
  EXPECT(got.all64 == 0);
  EXPECT(got.sum_float == 0.5f * kThreads);
  EXPECT(got.compared == 3 * kThreads);
  EXPECT(got.compared64 == uint64_t{9} << 40);
}

// The last block adds up what all blocks have written. A lock guards a counter that is not atomic.
__global__ void last_block_kernel(int* parts, unsigned* num_done, unsigned* lock, int* counter, int* total) {
  if (threadIdx.x != 0) return;
  while (atomicCAS(lock, 0u, 1u) != 0) device::yield();
  device::load_acquire(lock);
  *counter += 1;
  device::store_release(lock, 0u);
  parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  if (device::fetch_add_acq_rel(num_done, 1u) != gridDim.x - 1) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  *total = sum;
}

void test_order() {
  constexpr int kBlocks = 20;
  DeviceArray<int> parts(kBlocks), counter(1), total(1);
  DeviceArray<unsigned> num_done(1), lock(1);
  device::launch(last_block_kernel, dim3(kBlocks), dim3(32), 0, nullptr, parts.data(), num_done.data(), lock.data(),
                 counter.data(), total.data());
  EXPECT(total.to_host()[0] == kBlocks * (kBlocks + 1) / 2);
  EXPECT(counter.to_host()[0] == kBlocks);
}

// ---- arithmetic

__global__ void arithmetic_kernel(const unsigned* nine, unsigned* out) {
  if (threadIdx.x != 0) return;
  int n = 0;
  out[n++] = static_cast<unsigned>(__popc(0xF0F00001u));
  out[n++] = static_cast<unsigned>(__popcll(0xF0F00001F0000000ull));
  out[n++] = static_cast<unsigned>(__ffs(0x50));
  out[n++] = static_cast<unsigned>(__ffs(0));
  out[n++] = static_cast<unsigned>(__ffsll(1ll << 40));
  out[n++] = static_cast<unsigned>(__clz(1));
  out[n++] = static_cast<unsigned>(__clz(0));
  out[n++] = static_cast<unsigned>(__clzll(1ll << 40));
  out[n++] = __brev(0x00000013u);
  out[n++] = __byte_perm(0x33221100u, 0x77665544u, 0x7531u);
  out[n++] = __umulhi(0xFFFFFFFFu, 0xFFFFFFFEu);
  out[n++] = static_cast<unsigned>(__umul64hi(0xFFFFFFFFFFFFFFFFull, 0x100000000ull));
  out[n++] = __float_as_uint(1.0f);
  out[n++] = static_cast<unsigned>(__float_as_int(-2.0f));
  out[n++] = __float_as_uint(__uint_as_float(0x3F800001u));
  out[n++] = __float_as_uint(__int_as_float(0x40490FDB));
  out[n++] = __float_as_uint(__fsqrt_rn(2.0f));
  out[n++] = __float_as_uint(__frcp_rn(3.0f));
  out[n++] = __float_as_uint(__fdiv_rn(1.0f, 10.0f));
  out[n++] = __float_as_uint(__fmaf_rn(1.0f + 0x1p-23f, 1.0f + 0x1p-23f, -1.0f));
  out[n++] = __float_as_uint(__fadd_rn(1.0f, 0x1p-24f));
  out[n++] = __float_as_uint(__fsub_rn(1.0f, 0x1p-25f));
  out[n++] = __float_as_uint(__fmul_rn(1.0f + 0x1p-23f, 1.0f + 0x1p-23f));
  out[n++] = __float_as_uint(__fmul_rn(0x1p-126f, 0.5f));  // subnormal: not flushed
  out[n++] = static_cast<unsigned>(min(-3, 2));
  out[n++] = max(3u, 0xFFFFFFFFu);
  out[n++] = __float_as_uint(max(1.0f, __uint_as_float(0x7FC00000u)));
  const uint2 pair = make_uint2(5u, 6u);
  const int4 quad = make_int4(1, 2, 3, 4);
  out[n++] =
      pair.x + pair.y + static_cast<unsigned>(quad.x + quad.w) + static_cast<unsigned>(make_float2(1.0f, 2.0f).y);
  out[n++] = __ldg(nine) + make_uint4(1u, 2u, 3u, 4u).z;
}

void test_arithmetic() {
  const unsigned expected[] = {9,           13,          5,           0,           41,          31,
                               32,          23,          0xC8000000u, 0x77553311u, 0xFFFFFFFDu, 0xFFFFFFFFu,
                               0x3F800000u, 0xC0000000u, 0x3F800001u, 0x40490FDBu, 0x3FB504F3u, 0x3EAAAAABu,
                               0x3DCCCCCDu, 0x34800000u, 0x3F800000u, 0x3F800000u, 0x3F800002u, 0x00400000u,
                               0xFFFFFFFDu, 0xFFFFFFFFu, 0x3F800000u, 18,          12};
  constexpr int kCount = sizeof expected / sizeof *expected;
  DeviceArray<unsigned> nine(1, 9), out(kCount);
  device::launch(arithmetic_kernel, dim3(1), dim3(32), 0, nullptr, nine.data(), out.data());
  const std::vector<unsigned> found = out.to_host();
  for (int i = 0; i < kCount; ++i) {
    if (found[i] != expected[i]) std::printf("arithmetic %d: %08x, expected %08x\n", i, found[i], expected[i]);
    EXPECT(found[i] == expected[i]);
  }
}

// ---- launchers

void test_copies() {
  DeviceArray<int> a(100), b(100, 5);
  device::fill_async(a.data(), 0xFF, 50 * sizeof(int), nullptr);
  device::copy_async(b.data(), a.data(), 60 * sizeof(int), nullptr);
  const std::vector<int> copied = b.to_host();
  for (int i = 0; i < 100; ++i) EXPECT(copied[i] == (i < 50 ? -1 : i < 60 ? 0 : 5));
  EXPECT(device::num_multiprocessors() > 0);
  EXPECT(device::max_shared_bytes() >= 48 << 10);
}

bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

void test_bad_launches() {
  DeviceArray<int> out(1024);
  const auto launch_with = [&](dim3 grid, dim3 block, size_t bytes) {
    return throws([&] { device::launch(identity_kernel, grid, block, bytes, nullptr, out.data()); });
  };
  EXPECT(launch_with(dim3(1), dim3(2048), 0));
  EXPECT(launch_with(dim3(0), dim3(32), 0));
  EXPECT(launch_with(dim3(1), dim3(0), 0));
  EXPECT(launch_with(dim3(1, 70000), dim3(32), 0));
  EXPECT(launch_with(dim3(1), dim3(32), device::max_shared_bytes() + 16));
  EXPECT(!launch_with(dim3(1), dim3(1024), 0));
  test::synchronize();
}

// ---- PTX

int small_integer(int i) { return (i * 37 + i / 7 * 11) % 17 - 8; }

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Runs a kernel that adds a product to c, and returns the sum.
template <class T>
std::vector<float> multiply(void (*kernel)(const T*, const T*, float*), const std::vector<T>& a,
                            const std::vector<T>& b, const std::vector<float>& c) {
  DeviceArray<T> left(a), right(b);
  DeviceArray<float> sum(c);
  device::launch(kernel, dim3(1), dim3(32), 0, nullptr, left.data(), right.data(), sum.data());
  return sum.to_host();
}

// One warp multiplies a[16, 16] (bfloat16, row-major) by the transpose of b[8, 16].
__global__ void mma_bf16_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  const int lane = static_cast<int>(threadIdx.x), group = lane / 4, member = lane % 4;
  const auto pair = [](const uint16_t* p) { return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 16; };
  uint32_t a_words[4], b_words[2];
  for (int i = 0; i < 4; ++i) a_words[i] = pair(a + (group + 8 * (i % 2)) * 16 + 2 * member + 8 * (i / 2));
  for (int i = 0; i < 2; ++i) b_words[i] = pair(b + group * 16 + 2 * member + 8 * i);
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = c[(group + 8 * (i / 2)) * 8 + 2 * member + i % 2];
  ptx::mma_m16n8k16_bf16(acc, a_words, b_words);
  for (int i = 0; i < 4; ++i) c[(group + 8 * (i / 2)) * 8 + 2 * member + i % 2] = acc[i];
}

void test_mma_bf16() {
  std::vector<uint16_t> a(16 * 16), b(8 * 16);
  std::vector<float> c(16 * 8);
  const auto bf16 = [](int value) { return static_cast<uint16_t>(bits_of(static_cast<float>(value)) >> 16); };
  for (int i = 0; i < 256; ++i) a[i] = bf16(small_integer(i));
  for (int i = 0; i < 128; ++i) b[i] = bf16(small_integer(3 * i + 1));
  for (int i = 0; i < 128; ++i) c[i] = static_cast<float>(i);
  c = multiply(mma_bf16_kernel, a, b, c);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int sum = i * 8 + j;
      for (int k = 0; k < 16; ++k) sum += small_integer(i * 16 + k) * small_integer(3 * (j * 16 + k) + 1);
      EXPECT(c[i * 8 + j] == static_cast<float>(sum));
    }
  }
}

__global__ void mma_tf32_kernel(const float* a, const float* b, float* c) {  // a[16, 8], b[8, 8] transposed
  const int lane = static_cast<int>(threadIdx.x), group = lane / 4, member = lane % 4;
  uint32_t a_words[4], b_words[2];
  for (int i = 0; i < 4; ++i) a_words[i] = __float_as_uint(a[(group + 8 * (i % 2)) * 8 + member + 4 * (i / 2)]);
  for (int i = 0; i < 2; ++i) b_words[i] = __float_as_uint(b[group * 8 + member + 4 * i]);
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = c[(group + 8 * (i / 2)) * 8 + 2 * member + i % 2];
  ptx::mma_m16n8k8_tf32(acc, a_words, b_words);
  for (int i = 0; i < 4; ++i) c[(group + 8 * (i / 2)) * 8 + 2 * member + i % 2] = acc[i];
}

void test_mma_tf32() {
  std::vector<float> a(16 * 8), b(8 * 8), c(16 * 8);
  for (int i = 0; i < 128; ++i) a[i] = static_cast<float>(small_integer(i));
  for (int i = 0; i < 64; ++i) b[i] = static_cast<float>(small_integer(5 * i + 2));
  for (int i = 0; i < 128; ++i) c[i] = static_cast<float>(i);
  c = multiply(mma_tf32_kernel, a, b, c);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int sum = i * 8 + j;
      for (int k = 0; k < 8; ++k) sum += small_integer(i * 8 + k) * small_integer(5 * (j * 8 + k) + 2);
      EXPECT(c[i * 8 + j] == static_cast<float>(sum));
    }
  }
}

__global__ void ldmatrix_kernel(const uint16_t* in, uint32_t* out) {  // in[32, 8]
  BSE_SHARED(uint16_t, rows, [32][24]);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; ++i) rows[lane][i] = in[lane * 8 + i];
  __syncwarp();
  uint32_t words[4];
  ptx::ldmatrix_x4(words, rows[lane]);
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = words[i];
}

void test_ldmatrix() {
  std::vector<uint16_t> values(32 * 8);
  for (int i = 0; i < 256; ++i) values[i] = static_cast<uint16_t>(i);
  DeviceArray<uint16_t> in(values);
  DeviceArray<uint32_t> out(32 * 4);
  device::launch(ldmatrix_kernel, dim3(1), dim3(32), 0, nullptr, in.data(), out.data());
  const std::vector<uint32_t> found = out.to_host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const auto first = static_cast<uint32_t>((8 * i + lane / 4) * 8 + 2 * (lane % 4));
      EXPECT(found[lane * 4 + i] == (first | (first + 1) << 16));
    }
  }
}

// Keeps three stages in flight. The last copies read fewer bytes. out[thread] adds up what the next thread copied.
__global__ void cp_async_kernel(const uint32_t* in, int num_steps, int num_last_bytes, uint32_t* out) {
  constexpr int kStages = 3;
  BSE_SHARED(uint4, stages, [kStages][64]);
  const int thread = static_cast<int>(threadIdx.x);
  const auto start = [&](int step) {
    const int num_bytes = step == num_steps - 1 ? num_last_bytes : 16;
    if (step < num_steps) ptx::cp_async16(&stages[step % kStages][thread], in + (step * 64 + thread) * 4, num_bytes);
    ptx::cp_async_commit();
  };
  for (int step = 0; step < kStages - 1; ++step) start(step);
  uint32_t sum = 0;
  for (int step = 0; step < num_steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();
    start(step + kStages - 1);
    const uint4 words = stages[step % kStages][(thread + 1) % 64];
    sum += words.x + 3 * words.y + 5 * words.z + 7 * words.w;
  }
  out[blockIdx.x * 64 + threadIdx.x] = sum;
}

void test_cp_async() {
  constexpr int kSteps = 7;
  std::vector<uint32_t> values(kSteps * 64 * 4);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint32_t>(i * 2654435761u);
  DeviceArray<uint32_t> in(values), out(2 * 64);
  const int last_bytes[] = {16, 8, 4, 0};
  for (const int num_last_bytes : last_bytes) {
    device::launch(cp_async_kernel, dim3(2), dim3(64), 0, nullptr, in.data(), kSteps, num_last_bytes, out.data());
    const std::vector<uint32_t> found = out.to_host();
    for (int i_out = 0; i_out < 2 * 64; ++i_out) {
      const int thread = i_out % 64;
      uint32_t sum = 0;
      for (int step = 0; step < kSteps; ++step) {
        for (int i = 0; i < 4; ++i) {
          if (step == kSteps - 1 && 4 * i >= num_last_bytes) continue;
          sum += static_cast<uint32_t>(2 * i + 1) * values[(step * 64 + (thread + 1) % 64) * 4 + i];
        }
      }
      EXPECT(found[i_out] == sum);
    }
  }
}

void run_all() {
  test_identity();
  test_warp();
  test_divergence();
  test_barriers();
  test_shared();
  test_large_shared();
  test_atomics();
  test_order();
  test_arithmetic();
  test_copies();
  test_bad_launches();
  test_mma_bf16();
  test_mma_tf32();
  test_ldmatrix();
  test_cp_async();
}

}  // namespace

#if !defined(__CUDACC__)
void test_runtime(int& num_failures);  // selftest_runtime.cpp
#endif

int main() {
#if defined(__CUDACC__)
  run_all();
#else
  emulator::Config& config = emulator::config();
  const emulator::Config defaults = config;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (const uint64_t preemption : {0, 3}) {
      config.seed = seed;
      config.preemption = preemption;
      config.resident_blocks = 1 + seed;
      run_all();
    }
  }
  config = defaults;
  test_runtime(num_failures);
#endif
  std::printf(num_failures == 0 ? "selftest passed\n" : "selftest: %d FAILED\n", num_failures);
  return num_failures == 0 ? 0 : 1;
}

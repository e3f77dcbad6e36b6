// Tests what only the emulator has: reports, reproducible schedules, and launches from several host threads.

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

void test_runtime(int& num_failures);

namespace {

using namespace bse;

int* failures = nullptr;

void expect(bool condition, const char* what, const std::string& detail = "") {
  if (condition) return;
  ++*failures;
  std::printf("FAILED %s: %s\n", what, detail.c_str());
}

template <class... Parameters, class... Arguments>
std::string error_of(void (*kernel)(Parameters...), unsigned num_threads, Arguments... arguments) {
  try {
    device::launch(kernel, dim3(1), dim3(num_threads), 0, nullptr, arguments...);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void expect_report(const char* what, const std::string& report, const char* words) {
  expect(report.find(words) != std::string::npos && report.find("selftest_runtime.cpp:") != std::string::npos, what,
         report);
}

__global__ void divergent_barrier_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_and_vote_kernel() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __any_sync(~0u, 0);
  }
}

__global__ void not_in_mask_kernel() { __ballot_sync(0x7FFFFFFFu, 1); }

__global__ void mixed_collectives_kernel() {
  if (threadIdx.x < 16) {
    __ballot_sync(~0u, 1);
  } else {
    __any_sync(~0u, 1);
  }
}

__global__ void absent_lane_kernel() {
  if (threadIdx.x > 3) __shfl_sync(0xFFFFFFF0u, 1, 0);
}

__global__ void exited_lane_kernel() {
  if (threadIdx.x == 9) return;
  __shfl_xor_sync(~0u, 1, 1);
}

__global__ void forgotten_yield_kernel(int* flag) {
  while (atomicAdd(flag, 0) == 0) {
  }
}

__global__ void spin_kernel(int* flag) {
  if (threadIdx.x == 0) {
    while (device::load_acquire(flag) == 0) device::yield();
  } else {
    __syncthreads();
  }
}

__global__ void too_much_shared_kernel() {
  BSE_SHARED(char, memory, [49 << 10]);
  memory[0] = 1;
}

__global__ void not_launched_with_kernel() {
  device::SharedMemory shared;
  *shared.take<int>(1) = 1;
}

__global__ void unfinished_copy_kernel(const int* source) {
  BSE_SHARED(int, destination, [4]);
  ptx::cp_async16(destination, source);
  ptx::cp_async_commit();
}

__global__ void copy_to_global_kernel(const int* source, int* destination) { ptx::cp_async16(destination, source); }

__global__ void partial_mma_kernel() {
  if (threadIdx.x == 31) return;
  float acc[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  ptx::mma_m16n8k16_bf16(acc, a, b);
}

__global__ void throwing_kernel() { throw std::runtime_error("a word"); }

__global__ void launching_kernel() { device::launch(not_in_mask_kernel, dim3(1), dim3(1), 0, nullptr); }

__global__ void count_kernel(int num_rounds, int* out) {
  for (int i = 0; i < num_rounds; ++i) {
    if (threadIdx.x == 0) out[blockIdx.x] += 1;
    __syncthreads();
  }
}

// Records the order in which threads of two blocks reach an atomic.
__global__ void order_kernel(unsigned* num_tickets, unsigned* out) {
  for (int i = 0; i < 3; ++i) out[(blockIdx.x * blockDim.x + threadIdx.x) * 3 + i] = atomicAdd(num_tickets, 1u);
}

void test_reports() {
  expect_report("divergent barrier", error_of(divergent_barrier_kernel, 64), "divergent barrier: __syncthreads at ");
  expect_report("barrier and vote", error_of(barrier_and_vote_kernel, 64), "deadlock:");
  expect_report("not in mask", error_of(not_in_mask_kernel, 32),
                "not in its own mask: __ballot/any/all_sync mask 7fffffff");
  expect_report("mixed collectives", error_of(mixed_collectives_kernel, 32), "lanes of a warp meet in different");
  expect_report("absent lane", error_of(absent_lane_kernel, 32), "reads a lane that does not take part: lane ");
  expect_report("exited lane", error_of(exited_lane_kernel, 32), "reads a lane that does not take part: lane 8");
  expect_report("too much shared memory", error_of(too_much_shared_kernel, 32), "48 KiB");
  expect_report("dynamic shared memory", error_of(not_launched_with_kernel, 32), "than was asked for at the launch");
  alignas(16) int source[4] = {}, destination[4] = {};
  expect_report("unfinished copy", error_of(unfinished_copy_kernel, 1, static_cast<const int*>(source)),
                "cp.async under way");
  expect_report("copy to global", error_of(copy_to_global_kernel, 1, static_cast<const int*>(source), &destination[0]),
                "not shared memory");
  expect_report("partial mma", error_of(partial_mma_kernel, 32), "all 32 lanes");
  expect(error_of(throwing_kernel, 32).find("a word") != std::string::npos, "exception in a kernel");
  expect(error_of(launching_kernel, 32).find("called from a kernel") != std::string::npos, "launch in a kernel");
  int flag = 0;
  emulator::config().max_idle_steps = 1000;
  expect_report("spin without yield", error_of(forgotten_yield_kernel, 32, &flag), "livelock");
  expect_report("spin", error_of(spin_kernel, 32, &flag), "livelock");
  emulator::config().max_idle_steps = emulator::Config().max_idle_steps;
  flag = 1;
  expect(error_of(forgotten_yield_kernel, 32, &flag).empty(), "launch after errors");
}

std::vector<unsigned> order_of(uint64_t seed) {
  emulator::config().seed = seed;
  unsigned num_tickets = 0;
  std::vector<unsigned> order(2 * 64 * 3);
  device::launch(order_kernel, dim3(2), dim3(64), 0, nullptr, &num_tickets, order.data());
  return order;
}

void test_schedules() {
  const emulator::Config before = emulator::config();
  emulator::config().preemption = 2;
  expect(order_of(0) == order_of(0), "seed 0 is one fixed schedule");
  expect(order_of(1) != order_of(1), "launches of one seed differ");
  expect(order_of(1) != order_of(2), "seeds differ");
  emulator::config() = before;
}

void test_host_threads() {
  constexpr int kBlocks = 4, kRounds = 50;
  std::vector<int> a(kBlocks), b(kBlocks);
  const auto count = [&](std::vector<int>& out) {
    for (int i = 0; i < 10; ++i) device::launch(count_kernel, dim3(kBlocks), dim3(64), 0, nullptr, kRounds, out.data());
  };
  std::thread other([&] { count(b); });
  count(a);
  other.join();
  expect(a == std::vector<int>(kBlocks, 10 * kRounds) && b == a, "launches from two host threads");
}

}  // namespace

void test_runtime(int& num_failures) {
  failures = &num_failures;
  test_reports();
  test_schedules();
  test_host_threads();
}

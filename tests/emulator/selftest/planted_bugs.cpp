// Checks that the emulator finds bugs: runs each kernel of planted_kernels.h, correct and with each of its bugs, under
// several seeds.
//
//   planted_bugs MODE       plain, asan or tsan: how this program was compiled
// A run counts as caught if the result is wrong, the launch throws, or a sanitizer stops the process. In the modes that
// its line in the table names, at least one seed must catch a bug. A correct kernel must never be caught. Reports go to
// stderr. Compiled by nvcc, the program runs the correct kernels on the GPU.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/selftest/planted_kernels.h"
#include "kernels/device_array.h"

#if defined(__SANITIZE_ADDRESS__)
extern "C" const char* __asan_default_options() { return "exitcode=77:detect_leaks=0"; }
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" const char* __tsan_default_options() { return "exitcode=77:halt_on_error=1"; }
#endif

namespace {

using namespace bse;
using planted::Bug;
using test::DeviceArray;

// ---- one run of each kernel: returns whether the result is right

template <Bug kBug>
bool rotate() {
  constexpr int kBlocks = 3, kRounds = 5, kThreads = planted::kRotateThreads;
  std::vector<int> values(kBlocks * kThreads);
  for (int i = 0; i < kBlocks * kThreads; ++i) values[i] = i * 7 % 1000;
  DeviceArray<int> in(values), out(kBlocks * kThreads, -1);
  const size_t num_bytes = device::shared_bytes<int>(kThreads) - (kBug == Bug::kTooLittleShared ? 16 : 0);
  device::launch(planted::rotate_kernel<kBug>, dim3(kBlocks), dim3(kThreads), num_bytes, nullptr, kRounds, in.data(),
                 out.data());
  const std::vector<int> found = out.to_host();
  for (int block = 0; block < kBlocks; ++block) {
    const int* const own = values.data() + block * kThreads;
    int sum = 0;
    for (int i = 0; i < kThreads; ++i) sum += own[i];
    for (int i = 0; i < kThreads; ++i) {
      if (found[block * kThreads + i] != own[(i + kRounds) % kThreads] + sum) return false;
    }
  }
  return true;
}

template <Bug kBug>
bool compact() {
  constexpr int kBlocks = 2, kThreads = 128, kCount = kBlocks * kThreads - 13;
  std::vector<int> values(kCount);
  for (int i = 0; i < kCount; ++i) values[i] = (i * 31 + 5) % 11 - 5;
  DeviceArray<int> in(values), num_kept(1), kept(kCount), reversed(kCount, -1);
  device::launch(planted::compact_kernel<kBug>, dim3(kBlocks), dim3(kThreads), 0, nullptr, in.data(), kCount,
                 num_kept.data(), kept.data(), reversed.data());
  std::vector<int> expected, got = kept.to_host();
  const std::vector<int> found_reversed = reversed.to_host();
  got.resize(std::min(got.size(), static_cast<size_t>(num_kept.to_host()[0])));
  for (int i = 0; i < kCount; ++i) {
    if (values[i] > 0) expected.push_back(values[i]);
    const int source = i / 32 * 32 + 31 - i % 32;
    if (found_reversed[i] != (source < kCount ? values[source] : 0)) return false;
  }
  std::sort(expected.begin(), expected.end());
  std::sort(got.begin(), got.end());
  return got == expected;
}

template <Bug kBug>
bool histogram() {
  constexpr int kBlocks = 3, kThreads = 96, kCount = 500, kKeys = planted::kNumSlots;  // the tables become full
  std::vector<uint32_t> values(kBlocks * kCount);
  std::vector<int> expected(kKeys);
  for (int i = 0; i < kBlocks * kCount; ++i) {
    values[i] = static_cast<uint32_t>(i / 3 * 29 % kKeys);
    ++expected[values[i]];
  }
  DeviceArray<uint32_t> in(values);
  DeviceArray<int> got(kKeys), is_full(kBlocks);
  device::launch(planted::histogram_kernel<kBug>, dim3(kBlocks), dim3(kThreads), 0, nullptr, in.data(), kCount,
                 got.data(), is_full.data());
  return is_full.to_host() == std::vector<int>(kBlocks, 1) && got.to_host() == expected;
}

template <Bug kBug>
bool tile() {
  constexpr int kDepth = 72, kRows = planted::kTileRows, kColumns = planted::kTileColumns;
  std::vector<uint16_t> rows(kRows * kDepth), columns(kColumns * kDepth);
  const auto value = [](int i) { return (i * 37 + i / 7 * 11) % 17 - 8; };
  const auto bf16 = [](int integer) {
    const auto number = static_cast<float>(integer);
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  };
  for (int i = 0; i < kRows * kDepth; ++i) rows[i] = bf16(value(i));
  for (int i = 0; i < kColumns * kDepth; ++i) columns[i] = bf16(value(5 * i + 3));
  DeviceArray<uint16_t> a(rows), b(columns);
  DeviceArray<float> out(kRows * kColumns);
  device::launch(planted::tile_kernel<kBug>, dim3(1), dim3(64), 0, nullptr, a.data(), b.data(), kDepth, out.data());
  const std::vector<float> found = out.to_host();
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      int sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += value(i * kDepth + k) * value(5 * (j * kDepth + k) + 3);
      if (found[i * kColumns + j] != static_cast<float>(sum)) return false;
    }
  }
  return true;
}

template <Bug kBug>
bool vector_loads() {
  constexpr int kCount = 40;
  DeviceArray<float> in(4 * kCount, 1.0f), out(kCount);
  device::launch(planted::vector_kernel<kBug>, dim3(1), dim3(64), 0, nullptr, in.data(), kCount, out.data());
  return out.to_host() == std::vector<float>(kCount, 5.0f);
}

template <Bug kBug>
bool last_block() {
  constexpr int kBlocks = 8;
  DeviceArray<int> parts(kBlocks), total(1);
  DeviceArray<unsigned> num_done(1);
  device::launch(planted::last_block_kernel<kBug>, dim3(kBlocks), dim3(32), 0, nullptr, parts.data(), num_done.data(),
                 total.data());
  return total.to_host()[0] == kBlocks * (kBlocks + 1) / 2;
}

// ---- the table

struct Case {
  const char* kernel;
  const char* bug;    // null: correct
  const char* modes;  // modes that must catch it: p(lain), a(san), t(san)
  bool (*run)();
};

#define CORRECT(kernel) {#kernel, nullptr, "", kernel<Bug::kNone>}
#if defined(__CUDACC__)
#define WRONG(kernel, bug, modes) {#kernel, #bug, modes, nullptr}
#else
#define WRONG(kernel, bug, modes) {#kernel, #bug, modes, kernel<Bug::bug>}
#endif

const Case kCases[] = {
    CORRECT(rotate),
    WRONG(rotate, kNoBarrierBefore, "pat"),
    WRONG(rotate, kNoBarrierAfter, "pat"),
    WRONG(rotate, kDivergentBarrier, "pat"),
    WRONG(rotate, kBarrierForSome, "pt"),
    WRONG(rotate, kBarrierAgainstVote, "pat"),
    WRONG(rotate, kSharedOffByOne, "pat"),
    WRONG(rotate, kUninitialized, "pat"),
    WRONG(rotate, kTooLittleShared, "pat"),
    CORRECT(compact),
    WRONG(compact, kMissingLane, "pat"),
    WRONG(compact, kFullMaskInBranch, "pat"),
    WRONG(compact, kInactiveSource, "pat"),
    WRONG(compact, kExitBeforeShuffle, "pat"),
    WRONG(compact, kNoSyncwarp, "pat"),
    WRONG(compact, kVoteAsBarrier, "t"),
    CORRECT(histogram),
    WRONG(histogram, kNoBarrierBefore, "pt"),
    WRONG(histogram, kCheckThenAct, "t"),
    WRONG(histogram, kLostUpdate, "t"),
    WRONG(histogram, kWrapsLate, "a"),
    WRONG(histogram, kNotCleared, "pat"),
    WRONG(histogram, kRaceBetweenBlocks, "t"),
    WRONG(histogram, kSameValueWrites, "t"),
    CORRECT(tile),
    WRONG(tile, kNoBarrierBefore, "pat"),
    WRONG(tile, kNoBarrierAfter, "pat"),
    WRONG(tile, kNoWait, "pat"),
    WRONG(tile, kSwappedFragments, "pat"),
    WRONG(tile, kWrongLdmatrixRow, "pat"),
    WRONG(tile, kMisalignedCopy, "pat"),
    WRONG(tile, kCopiesBeyondRow, "pat"),
    CORRECT(vector_loads),
    WRONG(vector_loads, kMisalignedVector, "a"),
    WRONG(vector_loads, kGlobalOffByOne, "a"),
    CORRECT(last_block),
    WRONG(last_block, kFenceOnly, "t"),
    WRONG(last_block, kGridBarrier, "pat"),
};

#if defined(__CUDACC__)

int run_correct_kernels() {
  int num_failures = 0;
  for (const Case& test : kCases) {
    if (test.bug != nullptr || test.run()) continue;
    ++num_failures;
    std::printf("FAILED: %s\n", test.kernel);
  }
  std::printf("correct kernels on the device: %d failed\n", num_failures);
  return num_failures == 0 ? 0 : 1;
}

#else

enum Outcome { kRight, kWrong, kThrown, kSanitizer, kCrash, kNumOutcomes };
const char* const kOutcomeNames[] = {"right", "wrong", "report", "sanitizer", "crash"};

constexpr int kFirstCode = 100;  // exit codes apart from those of sanitizers

// Runs a case in a process of its own.
Outcome run_case(const Case& test, uint64_t seed) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    std::fprintf(stderr, "---- %s %s, seed %d\n", test.kernel, test.bug != nullptr ? test.bug : "",
                 static_cast<int>(seed));
    emulator::config() = emulator::Config();
    emulator::config().seed = seed;
    emulator::config().resident_blocks = 3;
    emulator::config().max_idle_steps = 20000;
    Outcome outcome;
    try {
      outcome = test.run() ? kRight : kWrong;
    } catch (const std::runtime_error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      outcome = kThrown;
    }
    std::exit(outcome == kRight ? 0 : kFirstCode + outcome);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return kCrash;
  const int code = WEXITSTATUS(status);
  if (code == 0) return kRight;
  return code > kFirstCode && code <= kFirstCode + kThrown ? static_cast<Outcome>(code - kFirstCode) : kSanitizer;
}

int run_matrix(const std::string& mode) {
  const int num_seeds = mode == "plain" ? 16 : 3;  // including seed 0, the fixed order
  int num_failures = 0;
  for (const Case& test : kCases) {
    int counts[kNumOutcomes] = {};
    for (int seed = 0; seed < num_seeds; ++seed) ++counts[run_case(test, static_cast<uint64_t>(seed))];
    const bool must_be_caught = std::strchr(test.modes, mode[0]) != nullptr;
    const bool is_caught = counts[kRight] < num_seeds;
    const bool is_fine = test.bug == nullptr ? !is_caught : is_caught || !must_be_caught;
    num_failures += !is_fine;
    std::printf("%-6s %-13s %-20s", is_fine ? "" : "FAILED", test.kernel, test.bug != nullptr ? test.bug : "(correct)");
    for (int outcome = 0; outcome < kNumOutcomes; ++outcome) {
      if (counts[outcome] > 0) std::printf(" %s %d/%d", kOutcomeNames[outcome], counts[outcome], num_seeds);
    }
    std::printf("\n");
  }
  std::printf("planted bugs, %s: %d lines are not as they must be\n", mode.c_str(), num_failures);
  return num_failures == 0 ? 0 : 1;
}

#endif

}  // namespace

int main(int argc, char** argv) {
#if defined(__CUDACC__)
  (void)argc, (void)argv;
  return run_correct_kernels();
#else
  const std::string mode = argc == 2 ? argv[1] : "";
  if (mode != "plain" && mode != "asan" && mode != "tsan") {
    std::fprintf(stderr, "usage: planted_bugs plain|asan|tsan\n");
    return 2;
  }
  return run_matrix(mode);
#endif
}

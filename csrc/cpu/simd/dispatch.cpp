#include "cpu/simd/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace bse {

namespace {

struct Candidate {
  const KernelTable* kernels;
  bool (*supported)();
};

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

// Slowest first. A new instruction set adds one file and one line here.
const Candidate kCandidates[] = {
    {&kScalarKernels, [] { return true; }},
#if defined(__x86_64__)
    {&kAvx2Kernels, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
    {&kAvx512Kernels, has_avx512},
    {&kAvx512VnniKernels, has_avx512_vnni},
    {&kAvx512Bf16Kernels, has_avx512_bf16},
#elif defined(__aarch64__)
    {&kNeonKernels, [] { return true; }},
#endif
};

const KernelTable* find_kernels(const std::string& name, const char* argument) {
  std::string known;
  for (const Candidate& candidate : kCandidates) {
    if (name == candidate.kernels->isa_name) {
      if (candidate.supported()) return candidate.kernels;
      throw std::invalid_argument(std::string(argument) + ": expected an instruction set of this CPU, got '" + name +
                                  "'");
    }
    known += (known.empty() ? "'" : ", '") + std::string(candidate.kernels->isa_name) + "'";
  }
  throw std::invalid_argument(std::string(argument) + ": expected one of " + known + ", got '" + name + "'");
}

const KernelTable* initial_kernels() {
  const char* override_name = std::getenv("BSE_ISA");
  if (override_name != nullptr && *override_name != '\0') return find_kernels(override_name, "BSE_ISA");
  const KernelTable* best = nullptr;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.supported()) best = candidate.kernels;
  }
  return best;
}

std::atomic<const KernelTable*>& kernels_in_use() {
  static std::atomic<const KernelTable*> in_use{initial_kernels()};
  return in_use;
}

}  // namespace

const KernelTable& kernel_table() { return *kernels_in_use().load(std::memory_order_relaxed); }

void use_isa(const std::string& name) { kernels_in_use().store(find_kernels(name, "isa")); }

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.supported()) names.emplace_back(candidate.kernels->isa_name);
  }
  return names;
}

}  // namespace bse

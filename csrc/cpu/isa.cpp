#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace bse {

namespace {

struct Candidate {
  const SimilarityKernels* kernels;
  bool (*supported)();
};

// Slowest first. A new instruction set is one more file and one more line here.
const Candidate kCandidates[] = {
    {&kScalarKernels, [] { return true; }},
#if defined(__x86_64__)
    {&kAvx2Kernels, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
};

const SimilarityKernels& choose() {
  const char* override_name = std::getenv("BSE_ISA");
  if (override_name == nullptr || *override_name == '\0') {
    const SimilarityKernels* best = nullptr;
    for (const Candidate& candidate : kCandidates) {
      if (candidate.supported()) best = candidate.kernels;
    }
    return *best;
  }
  std::string known;
  for (const Candidate& candidate : kCandidates) {
    const std::string name = candidate.kernels->isa_name;
    if (name == override_name) {
      if (candidate.supported()) return *candidate.kernels;
      throw std::invalid_argument("BSE_ISA: expected an instruction set of this CPU, got '" + name + "'");
    }
    known += (known.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument("BSE_ISA: expected one of " + known + ", got '" + override_name + "'");
}

}  // namespace

const SimilarityKernels& similarity_kernels() {
  static const SimilarityKernels& chosen = choose();
  return chosen;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.supported()) names.emplace_back(candidate.kernels->isa_name);
  }
  return names;
}

}  // namespace bse

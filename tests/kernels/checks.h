// Counting of failures, and sizes, that the test programs share.
#pragma once

#include <cstdio>
#include <string>

#include "cpu/runtime/thread_team.h"

namespace bse::test {

// ThreadSanitizer makes programs some ten times slower.
#if defined(__SANITIZE_THREAD__)
constexpr bool kIsSmall = true;
#else
constexpr bool kIsSmall = false;
#endif

inline int num_failures = 0;

inline void expect(bool condition, const std::string& what) {
  if (condition) return;
  if (++num_failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

struct Silent : Monitor {
  bool poll(int64_t) override { return true; }
};

}  // namespace bse::test

// Sets the thread's floating-point unit to the rounding that exact scores need, for the lifetime of the object.
//
// torch.set_flush_denormal(True) and some libraries set flush-to-zero in the calling thread, and new threads inherit
// it. Scores would then differ in their last bits from those of other processes.
#pragma once

#include <cfenv>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace bse {

class DefinedRounding {
 public:
#if defined(__x86_64__)
  DefinedRounding() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }  // all exceptions masked, nearest, no FTZ, no DAZ
  ~DefinedRounding() { _mm_setcsr(saved_); }
#else
  DefinedRounding() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefinedRounding() { std::fesetenv(&saved_); }
#endif
  DefinedRounding(const DefinedRounding&) = delete;
  DefinedRounding& operator=(const DefinedRounding&) = delete;

 private:
#if defined(__x86_64__)
  unsigned saved_;
#else
  std::fenv_t saved_;
#endif
};

}  // namespace bse

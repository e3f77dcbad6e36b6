// What all bindings share: borrowed pointers passed as integers, and cheap invariants checked again.
//
// batchsampler_ext/*.py validates arguments and words the errors; a failed check here is a bug in the caller.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace bse {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(std::string("engine: expected ") + what);
}

}  // namespace bse

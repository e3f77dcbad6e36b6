// Reports a bad value that a kernel has found (status.h).
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"
#include "cuda/runtime/status.h"

namespace bse::cuda {

// status: [kNumStatusWords]
BSE_DEVICE void report(uint64_t* status, StatusKind kind, uint32_t where, uint32_t value) {
  atomicMin(&status[static_cast<int>(kind)], uint64_t{where} << 32 | value);
}

}  // namespace bse::cuda

// The only device header that kernels and their launchers include. nvcc compiles it to CUDA. g++ compiles it to the
// emulator of tests/emulator, which executes the same kernels on the CPU (CONTRIBUTING.md, "Kernels").
//
//   BSE_DEVICE                      a device function, inlined
//   BSE_UNROLL                      before a loop with a constant trip count
//   BSE_SHARED(T, name, [N][M])     a static shared variable; without dimensions a scalar
//   SharedMemory, shared_bytes      dynamic shared memory, divided into 16-byte aligned pieces
//   launch, Stream                  instead of <<<>>>; throws std::runtime_error
//   fill_async, copy_async          cudaMemsetAsync, cudaMemcpyAsync
//   use_device, num_multiprocessors, max_shared_bytes
//   yield                           required in every spin loop
//   load_acquire, store_release, fetch_add_acq_rel    memory order over the device, e.g. to find the last block
//
// A kernel must not use __activemask, cub, cooperative groups, or inline PTX other than the wrappers in ptx.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::device {

// Bytes that SharedMemory::take<T>(count) uses. Launchers add them up.
template <class T>
#if defined(__CUDACC__)
__host__ __device__
#endif
    constexpr size_t shared_bytes(size_t count) {
  return (count * sizeof(T) + 15) / 16 * 16;
}

}  // namespace bse::device

#if defined(__CUDACC__)
#include "cuda/runtime/device_cuda.h"
#else
#include "emulator/emulator.h"
#endif

// csrc/cuda/runtime/device.h for g++: kernels become functions that the runtime executes, with one fiber per thread.
//
// It emulates the results of a kernel under many schedules, with reports that name file and line. It does not emulate
// speed, weak memory, registers or bank conflicts. A kernel that works here must still be run on a GPU.
#pragma once

#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator/atomics.h"
#include "emulator/collectives.h"
#include "emulator/intrinsics.h"
#include "emulator/runtime.h"
#include "emulator/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define warpSize 32
#define threadIdx (::bse::emulator::current_thread->thread_index)
#define blockIdx (::bse::emulator::current_thread->block_index)
#define blockDim (::bse::emulator::current_thread->block_dim)
#define gridDim (::bse::emulator::current_thread->grid_dim)

#define BSE_DEVICE inline
#define BSE_UNROLL
#define BSE_SHARED(T, name, ...)                                         \
  using name##_shared_type = ::bse::emulator::NotDeduced<T> __VA_ARGS__; \
  static const char name##_shared_key = 0;                               \
  auto& name = *static_cast<name##_shared_type*>(                        \
      ::bse::emulator::static_shared(&name##_shared_key, sizeof(name##_shared_type), #name, {__FILE__, __LINE__}))

namespace bse::device {

using Stream = void*;

class SharedMemory {
 public:
  template <class T>
  T* take(size_t count, BSE_CALL_SITE) {
    static_assert(alignof(T) <= 16, "pieces are aligned to 16 bytes");
    num_bytes_ += shared_bytes<T>(count);
    return static_cast<T*>(emulator::dynamic_shared(index_++, count * sizeof(T), num_bytes_, {file, line}));
  }

 private:
  int index_ = 0;
  size_t num_bytes_ = 0;
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, Stream,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "number of kernel arguments");
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;
  };
  const Call call{kernel, std::tuple<std::decay_t<Parameters>...>(std::forward<Arguments>(arguments)...)};
  const auto thread = [](const void* context) {
    const Call* const own = static_cast<const Call*>(context);
    std::apply(own->kernel, own->arguments);
  };
  emulator::run(grid, block, dynamic_shared_bytes, thread, &call);
}

inline void fill_async(void* destination, int byte, size_t num_bytes, Stream) {
  if (num_bytes > 0) std::memset(destination, byte, num_bytes);
}

inline void copy_async(void* destination, const void* source, size_t num_bytes, Stream) {
  if (num_bytes > 0) std::memmove(destination, source, num_bytes);
}

inline void use_device(int) {}
inline int num_multiprocessors() { return static_cast<int>(emulator::config().num_multiprocessors); }
inline size_t max_shared_bytes() { return emulator::config().max_shared_bytes; }

}  // namespace bse::device

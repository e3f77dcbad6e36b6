// The CUDA implementation of device.h.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define BSE_DEVICE __device__ __forceinline__
#define BSE_UNROLL _Pragma("unroll")
#define BSE_SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__

// CUDA declares its 64-bit atomics for unsigned long long only, but uint64_t is unsigned long on 64-bit Linux.
#define BSE_ATOMIC_64(name)                                                                                \
  BSE_DEVICE unsigned long name(unsigned long* address, unsigned long value) {                             \
    return ::name(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value)); \
  }
BSE_ATOMIC_64(atomicAdd)
BSE_ATOMIC_64(atomicMin)
BSE_ATOMIC_64(atomicMax)
BSE_ATOMIC_64(atomicOr)
BSE_ATOMIC_64(atomicAnd)
BSE_ATOMIC_64(atomicExch)
#undef BSE_ATOMIC_64
BSE_DEVICE unsigned long atomicCAS(unsigned long* address, unsigned long expected, unsigned long desired) {
  return ::atomicCAS(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(expected),
                     static_cast<unsigned long long>(desired));
}

namespace bse::device {

using Stream = cudaStream_t;

// A kernel constructs one at its start. All threads take the same pieces in the same order.
class SharedMemory {
 public:
  BSE_DEVICE SharedMemory() {
    extern __shared__ __align__(16) unsigned char bse_dynamic_shared_memory[];
    next_ = bse_dynamic_shared_memory;
  }

  template <class T>
  BSE_DEVICE T* take(size_t count) {
    static_assert(alignof(T) <= 16, "pieces are aligned to 16 bytes");
    T* piece = reinterpret_cast<T*>(next_);
    next_ += shared_bytes<T>(count);
    return piece;
  }

 private:
  unsigned char* next_;
};

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears the error, unless the device is lost
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

// Shared memory available to one block, static and dynamic together.
inline size_t max_shared_bytes() {
  return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// Raises a kernel's limit of dynamic shared memory to all that a block can have, once per kernel and device. A launch
// still uses only what it asks for. The limit belongs to the kernel: if each launch set its own, launches from two
// threads would overwrite each other's limit.
inline void allow_all_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) > 0) return;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  const size_t num_bytes = max_shared_bytes() - attributes.sharedSizeBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(num_bytes)),
        "cudaFuncSetAttribute");
  allowed.insert({kernel, device});
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, Stream stream,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "number of kernel arguments");
  const auto entry = reinterpret_cast<const void*>(kernel);
  if (dynamic_shared_bytes > 0) allow_all_shared_memory(entry);
  std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  const cudaError_t status = std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        return cudaLaunchKernel(entry, grid, block, pointers, dynamic_shared_bytes, stream);
      },
      values);
  if (status == cudaSuccess) return;
  const char* name = nullptr;
  if (cudaFuncGetName(&name, entry) != cudaSuccess || name == nullptr) name = "a kernel";
  const auto size = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  check(status, ("launch of " + std::string(name) + ", grid " + size(grid) + ", block " + size(block) + ", " +
                 std::to_string(dynamic_shared_bytes) + " bytes of shared memory")
                    .c_str());
}

inline void fill_async(void* destination, int byte, size_t num_bytes, Stream stream) {
  if (num_bytes > 0) check(cudaMemsetAsync(destination, byte, num_bytes, stream), "cudaMemsetAsync");
}

inline void copy_async(void* destination, const void* source, size_t num_bytes, Stream stream) {
  if (num_bytes > 0) {
    check(cudaMemcpyAsync(destination, source, num_bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  }
}

// Selects the device of the calling thread's later calls.
inline void use_device(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }

inline int num_multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

BSE_DEVICE void yield() { __nanosleep(64); }

template <class T>
BSE_DEVICE T load_acquire(const T* address) {
  const T value = *const_cast<const volatile T*>(address);
  __threadfence();
  return value;
}

template <class T>
BSE_DEVICE void store_release(T* address, std::common_type_t<T> value) {
  __threadfence();
  *const_cast<volatile T*>(address) = value;
}

template <class T>
BSE_DEVICE T fetch_add_acq_rel(T* address, std::common_type_t<T> value) {
  __threadfence();
  const T old = atomicAdd(address, static_cast<T>(value));
  __threadfence();
  return old;
}

}  // namespace bse::device

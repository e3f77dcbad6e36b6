// Memory of the device for tests: that of a GPU, or ordinary memory in the emulator. The host reads and writes it by
// copies only. Each array is an allocation of its own, so that AddressSanitizer and compute-sanitizer know its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#include "cuda/runtime/device.h"

namespace bse::test {

// allocate() takes a number of bytes greater than zero. synchronize() waits for all kernels and reports their errors.
#if defined(__CUDACC__)
inline void* allocate(size_t num_bytes) {
  void* data = nullptr;
  device::check(cudaMalloc(&data, num_bytes), "cudaMalloc");
  return data;
}
inline void release(void* data) { cudaFree(data); }
inline void synchronize() { device::check(cudaDeviceSynchronize(), "kernel"); }
#else
inline void* allocate(size_t num_bytes) {
  void* const data = std::malloc(num_bytes);
  return data != nullptr ? data : throw std::bad_alloc();
}
inline void release(void* data) { std::free(data); }
inline void synchronize() {}
#endif

// Copies after all kernels that were launched before.
template <class T>
void copy_to_host(T* host, const T* data, size_t count) {
  device::copy_async(host, data, count * sizeof(T), nullptr);
  synchronize();
}

template <class T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit DeviceArray(const std::vector<T>& values)
      : data_(values.empty() ? nullptr : static_cast<T*>(allocate(values.size() * sizeof(T)))), size_(values.size()) {
    copy_from_host(values);
  }
  explicit DeviceArray(size_t size, T value = T{}) : DeviceArray(std::vector<T>(size, value)) {}
  ~DeviceArray() { release(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return data_; }  // for kernels only; null if the array is empty
  const T* data() const { return data_; }
  size_t size() const { return size_; }

  void copy_from_host(const std::vector<T>& values) {  // values: [size]
    device::copy_async(data_, values.data(), size_ * sizeof(T), nullptr);
  }
  std::vector<T> to_host() const {
    std::vector<T> values(size_);
    copy_to_host(values.data(), data_, size_);
    return values;
  }

 private:
  T* data_;
  size_t size_;
};

// Scratch for a launcher, which wants it aligned to 256 bytes.
class Scratch {
 public:
  explicit Scratch(size_t num_bytes) : bytes_(num_bytes + 256, 0xA5) {}
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    return bytes_.data() + (256 - address % 256) % 256;
  }

 private:
  DeviceArray<unsigned char> bytes_;
};

}  // namespace bse::test

// Arrays for tests that host and kernels both access: ordinary memory in the emulator, managed memory on a GPU.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "cuda/runtime/device.h"

namespace bse::test {

#if defined(__CUDACC__)
inline void synchronize() { device::check(cudaDeviceSynchronize(), "kernel"); }

template <class T>
class Array {
 public:
  explicit Array(size_t size, T value = T{}) : size_(size) {
    device::check(cudaMallocManaged(&data_, (size > 0 ? size : 1) * sizeof(T)), "cudaMallocManaged");
    for (size_t i = 0; i < size; ++i) data_[i] = value;
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* data() { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t size_;
};
#else
inline void synchronize() {}

// Each array is an allocation of its own, so that AddressSanitizer knows where it ends.
template <class T>
class Array {
 public:
  explicit Array(size_t size, T value = T{}) : values_(size, value) {}
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* data() { return values_.data(); }
  size_t size() const { return values_.size(); }
  T& operator[](size_t i) { return values_[i]; }

 private:
  std::vector<T> values_;
};
#endif

}  // namespace bse::test

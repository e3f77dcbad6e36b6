// Divides the scratch buffer of a caller into pieces, each aligned to 256 bytes. Planning and running take the same
// pieces in the same order. When planning, the buffer is null and only the sizes are added up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace bse::cuda {

constexpr size_t kSharedBytes = 32 << 10;  // buffers of draws and sorts use shared memory up to this size, else scratch

class Scratch {
 public:
  explicit Scratch(void* buffer) : buffer_(static_cast<char*>(buffer)) {}

  template <class T>
  T* take(int64_t count) {
    constexpr size_t kAlignment = 256;
    const size_t begin = num_bytes_;
    num_bytes_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return buffer_ != nullptr ? reinterpret_cast<T*>(buffer_ + begin) : nullptr;
  }

  size_t num_bytes() const { return num_bytes_; }

 private:
  char* buffer_;
  size_t num_bytes_ = 0;
};

inline void require_scratch(size_t min_bytes, size_t max_bytes) {
  if (min_bytes <= max_bytes) return;
  throw std::invalid_argument("max_memory: expected at least " + std::to_string(min_bytes) +
                              " bytes of scratch for this call, got " + std::to_string(max_bytes));
}

}  // namespace bse::cuda

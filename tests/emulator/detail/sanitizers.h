// Notifies AddressSanitizer and ThreadSanitizer of the runtime's actions, if the program is linked with them.
#pragma once

#include <cstddef>

extern "C" {
#define BSE_WEAK __attribute__((weak))
BSE_WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
BSE_WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** old_bottom, size_t* old_size);
BSE_WEAK void __asan_poison_memory_region(const volatile void* begin, size_t size);
BSE_WEAK void __asan_unpoison_memory_region(const volatile void* begin, size_t size);
BSE_WEAK void* __tsan_get_current_fiber();
BSE_WEAK void* __tsan_create_fiber(unsigned flags);
BSE_WEAK void __tsan_destroy_fiber(void* fiber);
BSE_WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
BSE_WEAK void __tsan_acquire(void* address);
BSE_WEAK void __tsan_release(void* address);
BSE_WEAK void __tsan_read_range(void* begin, size_t size);
BSE_WEAK void __tsan_write_range(void* begin, size_t size);
BSE_WEAK void __tsan_ignore_thread_begin();
BSE_WEAK void __tsan_ignore_thread_end();
#undef BSE_WEAK
}

namespace bse::emulator {
namespace {

inline bool has_tsan() { return __tsan_switch_to_fiber != nullptr; }

inline void poison(const void* begin, size_t size) {
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(begin, size);
}

inline void unpoison(const void* begin, size_t size) {
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(begin, size);
}

// Work of a thread before release(x) happens before work of another thread after a later acquire(x).
inline void release(void* address) {
  if (__tsan_release != nullptr) __tsan_release(address);
}

inline void acquire(void* address) {
  if (__tsan_acquire != nullptr) __tsan_acquire(address);
}

inline void note_read(const void* begin, size_t size) {
  if (__tsan_read_range != nullptr && size > 0) __tsan_read_range(const_cast<void*>(begin), size);
}

inline void note_write(void* begin, size_t size) {
  if (__tsan_write_range != nullptr && size > 0) __tsan_write_range(begin, size);
}

// Hides the runtime's own work from ThreadSanitizer, such as intercepted functions (memset, free). Must not be held
// across a switch.
class UnseenByTsan {
 public:
  UnseenByTsan() {
    if (__tsan_ignore_thread_begin != nullptr) __tsan_ignore_thread_begin();
  }
  ~UnseenByTsan() {
    if (__tsan_ignore_thread_end != nullptr) __tsan_ignore_thread_end();
  }
  UnseenByTsan(const UnseenByTsan&) = delete;
  UnseenByTsan& operator=(const UnseenByTsan&) = delete;
};

}  // namespace
}  // namespace bse::emulator

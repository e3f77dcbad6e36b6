// Atomics in relaxed order, as in CUDA. The emulator may preempt a thread at each of them.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulator/runtime.h"

namespace bse::emulator {

template <class T>
struct Identity {
  using type = T;
};
template <class T>
using NotDeduced = typename Identity<T>::type;

template <class T>
constexpr bool kIsAtomicInteger =
    std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8) && (std::is_unsigned_v<T> || sizeof(T) == 4);

template <class T>
void atomic_access(const T* address, CallSite site) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) fail("misaligned atomic", site);
  preemption_point(site);
}

template <class T, class Change>
T atomic_change(T* address, const Change& change, CallSite site) {
  atomic_access(address, site);
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace bse::emulator

template <class T>
T atomicAdd(T* address, bse::emulator::NotDeduced<T> value, BSE_CALL_SITE) {
  static_assert(bse::emulator::kIsAtomicInteger<T> || std::is_same_v<T, float> || std::is_same_v<T, double>,
                "no such atomic");
  return bse::emulator::atomic_change(address, [=](T old) { return static_cast<T>(old + value); }, {file, line});
}

#define BSE_ATOMIC(name, expression)                                                                               \
  template <class T>                                                                                               \
  T name(T* address, bse::emulator::NotDeduced<T> value, BSE_CALL_SITE) {                                          \
    static_assert(bse::emulator::kIsAtomicInteger<T>, "no such atomic");                                           \
    return bse::emulator::atomic_change(address, [=](T old) { return static_cast<T>(expression); }, {file, line}); \
  }
BSE_ATOMIC(atomicSub, old - value)
BSE_ATOMIC(atomicMin, value < old ? value : old)
BSE_ATOMIC(atomicMax, old < value ? value : old)
BSE_ATOMIC(atomicOr, old | value)
BSE_ATOMIC(atomicAnd, old& value)
BSE_ATOMIC(atomicXor, old ^ value)
#undef BSE_ATOMIC

template <class T>
T atomicExch(T* address, bse::emulator::NotDeduced<T> value, BSE_CALL_SITE) {
  static_assert(bse::emulator::kIsAtomicInteger<T> || std::is_same_v<T, float>, "no such atomic");
  return bse::emulator::atomic_change(address, [=](T) { return value; }, {file, line});
}

template <class T>
T atomicCAS(T* address, bse::emulator::NotDeduced<T> expected, bse::emulator::NotDeduced<T> desired, BSE_CALL_SITE) {
  static_assert(bse::emulator::kIsAtomicInteger<T>, "no such atomic");
  bse::emulator::atomic_access(address, {file, line});
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// Fences alone order nothing for ThreadSanitizer. device::fetch_add_acq_rel and its like do.
inline void __threadfence(BSE_CALL_SITE) { bse::emulator::preemption_point({file, line}); }
inline void __threadfence_block(BSE_CALL_SITE) { bse::emulator::preemption_point({file, line}); }
inline void __nanosleep(unsigned, BSE_CALL_SITE) { bse::emulator::yield({file, line}); }

namespace bse::device {

inline void yield(BSE_CALL_SITE) { emulator::yield({file, line}); }

template <class T>
T load_acquire(const T* address, BSE_CALL_SITE) {
  emulator::atomic_access(address, {file, line});
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

template <class T>
void store_release(T* address, emulator::NotDeduced<T> value, BSE_CALL_SITE) {
  emulator::atomic_access(address, {file, line});
  __atomic_store_n(address, value, __ATOMIC_RELEASE);
}

template <class T>
T fetch_add_acq_rel(T* address, emulator::NotDeduced<T> value, BSE_CALL_SITE) {
  emulator::atomic_access(address, {file, line});
  return __atomic_fetch_add(address, value, __ATOMIC_ACQ_REL);
}

}  // namespace bse::device

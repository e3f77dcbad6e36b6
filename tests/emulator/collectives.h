// Barriers, votes, shuffles, matches and reductions. Only barriers order memory, also for ThreadSanitizer.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/runtime.h"

namespace bse::emulator {

constexpr int kWarpSize = 32;

inline int lane_index() {
  const ThreadIdentity& self = *current_thread;
  const unsigned row = self.thread_index.y + self.block_dim.y * self.thread_index.z;
  return static_cast<int>((self.thread_index.x + self.block_dim.x * row) % kWarpSize);
}

template <class T>
uint64_t to_word(T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "warp collectives take 4 or 8 bytes");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}

template <class T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <class T>
T shuffle(unsigned mask, T value, int source, CallSite site) {
  return from_word<T>(warp_collective(WarpOperation::kShuffle, mask, to_word(value), source, site));
}

// First lane of the calling lane's segment.
inline int segment_begin(int width, CallSite site) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) fail("shuffle width is not a power of two", site);
  return lane_index() & ~(width - 1);
}

template <class T>
T reduce(WarpOperation operation, unsigned mask, T value, CallSite site) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>, "__reduce_*_sync takes int or unsigned");
  return from_word<T>(warp_collective(operation, mask, to_word(value), std::is_signed_v<T>, site));
}

}  // namespace bse::emulator

inline void __syncthreads(BSE_CALL_SITE) { bse::emulator::block_barrier(false, {file, line}); }
inline int __syncthreads_count(int predicate, BSE_CALL_SITE) {
  return bse::emulator::block_barrier(predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, BSE_CALL_SITE) {
  return bse::emulator::block_barrier(predicate != 0, {file, line}) > 0;
}
inline int __syncthreads_and(int predicate, BSE_CALL_SITE) {
  return bse::emulator::block_barrier(predicate == 0, {file, line}) == 0;
}

inline void __syncwarp(unsigned mask = ~0u, BSE_CALL_SITE) {
  bse::emulator::warp_collective(bse::emulator::WarpOperation::kSync, mask, 0, 0, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, BSE_CALL_SITE) {
  return static_cast<unsigned>(
      bse::emulator::warp_collective(bse::emulator::WarpOperation::kBallot, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, BSE_CALL_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, BSE_CALL_SITE) {
  return __ballot_sync(mask, predicate == 0, file, line) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, BSE_CALL_SITE) {
  return static_cast<unsigned>(bse::emulator::warp_collective(bse::emulator::WarpOperation::kMatchAny, mask,
                                                              bse::emulator::to_word(value), 0, {file, line}));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, BSE_CALL_SITE) {
  const int begin = bse::emulator::segment_begin(width, {file, line});
  return bse::emulator::shuffle(mask, value, begin + (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, BSE_CALL_SITE) {
  const int begin = bse::emulator::segment_begin(width, {file, line}), lane = bse::emulator::lane_index();
  const int source = lane - static_cast<int>(delta);
  return bse::emulator::shuffle(mask, value, source < begin ? lane : source, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, BSE_CALL_SITE) {
  const int begin = bse::emulator::segment_begin(width, {file, line}), lane = bse::emulator::lane_index();
  const int source = lane + static_cast<int>(delta);
  return bse::emulator::shuffle(mask, value, source >= begin + width ? lane : source, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, BSE_CALL_SITE) {
  const int begin = bse::emulator::segment_begin(width, {file, line}), lane = bse::emulator::lane_index();
  const int source = lane ^ lane_mask;
  return bse::emulator::shuffle(mask, value, source >= begin + width ? lane : source, {file, line});
}

#define BSE_REDUCE(name, operation)                                                                   \
  template <class T>                                                                                  \
  T name(unsigned mask, T value, BSE_CALL_SITE) {                                                     \
    return bse::emulator::reduce(bse::emulator::WarpOperation::operation, mask, value, {file, line}); \
  }
BSE_REDUCE(__reduce_add_sync, kReduceAdd)
BSE_REDUCE(__reduce_min_sync, kReduceMin)
BSE_REDUCE(__reduce_max_sync, kReduceMax)
#undef BSE_REDUCE
#define BSE_REDUCE(name, operation)                                                                   \
  inline unsigned name(unsigned mask, unsigned value, BSE_CALL_SITE) {                                \
    return bse::emulator::reduce(bse::emulator::WarpOperation::operation, mask, value, {file, line}); \
  }
BSE_REDUCE(__reduce_and_sync, kReduceAnd)
BSE_REDUCE(__reduce_or_sync, kReduceOr)
BSE_REDUCE(__reduce_xor_sync, kReduceXor)
#undef BSE_REDUCE

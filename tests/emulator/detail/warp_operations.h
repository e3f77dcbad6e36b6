// Computes the results of warp collectives, once all their lanes have arrived.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/detail/grid_state.h"

namespace bse::emulator {
namespace {

inline const char* operation_name(WarpOperation operation) {
  switch (operation) {
    case WarpOperation::kSync:
      return "__syncwarp";
    case WarpOperation::kShuffle:
      return "__shfl_*_sync";
    case WarpOperation::kBallot:
      return "__ballot/any/all_sync";
    case WarpOperation::kMatchAny:
      return "__match_any_sync";
    case WarpOperation::kReduceAdd:
      return "__reduce_add_sync";
    case WarpOperation::kReduceMin:
      return "__reduce_min_sync";
    case WarpOperation::kReduceMax:
      return "__reduce_max_sync";
    case WarpOperation::kReduceAnd:
      return "__reduce_and_sync";
    case WarpOperation::kReduceOr:
      return "__reduce_or_sync";
    case WarpOperation::kReduceXor:
      return "__reduce_xor_sync";
    case WarpOperation::kMmaBf16:
      return "mma_m16n8k16_bf16";
    case WarpOperation::kMmaTf32:
      return "mma_m16n8k8_tf32";
    case WarpOperation::kLdmatrix:
      return "ldmatrix_x4";
  }
  return "?";
}

// Calls visit(thread) for each lane of the mask.
template <class Visit>
void for_each_lane(const Warp& warp, unsigned mask, const Visit& visit) {
  for (; mask != 0; mask &= mask - 1) visit(*warp.lanes[__builtin_ctz(mask)]);
}

inline uint32_t reduce_pair(WarpOperation operation, bool is_signed, uint32_t a, uint32_t b) {
  const bool less = is_signed ? static_cast<int32_t>(a) < static_cast<int32_t>(b) : a < b;
  switch (operation) {
    case WarpOperation::kReduceAdd:
      return a + b;
    case WarpOperation::kReduceMin:
      return less ? a : b;
    case WarpOperation::kReduceMax:
      return less ? b : a;
    case WarpOperation::kReduceAnd:
      return a & b;
    case WarpOperation::kReduceOr:
      return a | b;
    default:
      return a ^ b;
  }
}

inline float float_of_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Layout of fragments: csrc/cuda/runtime/ptx.h. The sum is rounded once. A GPU rounds more often, and truncates.
template <int kDepth>
struct Tile {
  float a[16][kDepth], b[kDepth][8];

  void accumulate(float* acc, int group, int member) const {
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i / 2), column = 2 * member + i % 2;
      double sum = acc[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[k][column];
      acc[i] = static_cast<float>(sum);
    }
  }
};

inline const MmaOperands& mma_operands(const Thread& thread) {
  return *reinterpret_cast<const MmaOperands*>(static_cast<uintptr_t>(thread.value));
}

inline void mma_bf16(const Warp& warp) {
  Tile<16> tile;
  for (const Thread* thread : warp.lanes) {
    const MmaOperands& own = mma_operands(*thread);
    const int group = thread->lane / 4, member = thread->lane % 4;
    const auto element = [](const uint32_t* words, int i) {
      return float_of_bits((i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xFFFF0000u));
    };
    for (int i = 0; i < 8; ++i) tile.a[group + 8 * (i / 2 % 2)][2 * member + i % 2 + 8 * (i / 4)] = element(own.a, i);
    for (int i = 0; i < 4; ++i) tile.b[2 * member + i % 2 + 8 * (i / 2)][group] = element(own.b, i);
  }
  for (const Thread* thread : warp.lanes) {
    tile.accumulate(mma_operands(*thread).acc, thread->lane / 4, thread->lane % 4);
  }
}

inline void mma_tf32(const Warp& warp) {
  Tile<8> tile;
  for (const Thread* thread : warp.lanes) {
    const MmaOperands& own = mma_operands(*thread);
    const int group = thread->lane / 4, member = thread->lane % 4;
    const auto element = [](uint32_t word) { return float_of_bits(word & 0xFFFFE000u); };
    for (int i = 0; i < 4; ++i) tile.a[group + 8 * (i % 2)][member + 4 * (i / 2)] = element(own.a[i]);
    for (int i = 0; i < 2; ++i) tile.b[member + 4 * i][group] = element(own.b[i]);
  }
  for (const Thread* thread : warp.lanes) {
    tile.accumulate(mma_operands(*thread).acc, thread->lane / 4, thread->lane % 4);
  }
}

inline void ldmatrix(const Warp& warp) {
  const auto operands = [&](int lane) {
    return reinterpret_cast<LdmatrixOperands*>(static_cast<uintptr_t>(warp.lanes[lane]->value));
  };
  for (int lane = 0; lane < kNumLanes; ++lane) {
    for (int i = 0; i < 4; ++i) operands(lane)->words[i] = operands(8 * i + lane / 4)->row[lane % 4];
  }
}

// Gives the members (lanes of the mask that have not exited) their results. Returns null, or a member with an error.
inline const Thread* combine(const Warp& warp, unsigned members, const char** error) {
  const Thread& first = *warp.lanes[__builtin_ctz(members)];
  switch (first.operation) {
    case WarpOperation::kSync:
      break;
    case WarpOperation::kShuffle: {
      uint64_t values[kNumLanes];
      const Thread* wrong = nullptr;
      for_each_lane(warp, members, [&](const Thread& thread) { values[thread.lane] = thread.value; });
      for_each_lane(warp, members, [&](Thread& thread) {
        const int source = thread.argument;
        if (source < 0 || source >= kNumLanes || (members >> source & 1) == 0) {
          wrong = &thread;
        } else {
          thread.value = values[source];
        }
      });
      *error = "a shuffle reads a lane that does not take part";
      return wrong;
    }
    case WarpOperation::kBallot: {
      unsigned ballot = 0;
      for_each_lane(warp, members, [&](const Thread& thread) {
        if (thread.value != 0) ballot |= 1u << thread.lane;
      });
      for_each_lane(warp, members, [&](Thread& thread) { thread.value = ballot; });
      break;
    }
    case WarpOperation::kMatchAny: {
      unsigned matches[kNumLanes];
      for_each_lane(warp, members, [&](const Thread& thread) {
        matches[thread.lane] = 0;
        for_each_lane(warp, members, [&](const Thread& other) {
          if (other.value == thread.value) matches[thread.lane] |= 1u << other.lane;
        });
      });
      for_each_lane(warp, members, [&](Thread& thread) { thread.value = matches[thread.lane]; });
      break;
    }
    case WarpOperation::kMmaBf16:
    case WarpOperation::kMmaTf32:
    case WarpOperation::kLdmatrix:
      if (members != ~0u) {
        *error = "all 32 lanes must take part";
        return &first;
      }
      if (first.operation == WarpOperation::kMmaBf16) mma_bf16(warp);
      if (first.operation == WarpOperation::kMmaTf32) mma_tf32(warp);
      if (first.operation == WarpOperation::kLdmatrix) ldmatrix(warp);
      break;
    default: {
      auto total = static_cast<uint32_t>(first.value);
      for_each_lane(warp, members & (members - 1), [&](const Thread& thread) {
        total = reduce_pair(first.operation, first.argument != 0, total, static_cast<uint32_t>(thread.value));
      });
      for_each_lane(warp, members, [&](Thread& thread) { thread.value = total; });
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace bse::emulator

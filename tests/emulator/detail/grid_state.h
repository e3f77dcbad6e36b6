// State of running threads, warps and blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/detail/fiber.h"
#include "emulator/detail/shared_arena.h"
#include "emulator/runtime.h"

namespace bse::emulator {
namespace {

constexpr int kNumLanes = 32;

struct AsyncCopy {
  void* destination;
  const void* source;
  int num_source_bytes;
  int group;
  bool has_landed;
  CallSite site;
};

enum class ThreadState : uint8_t { kReady, kAtBarrier, kInWarp, kExited };

struct Block;
struct Warp;

struct Thread : ThreadIdentity {
  Block* block;
  Warp* warp;
  Fiber* fiber;
  int lane;
  ThreadState state;

  // What the thread waits for and where, with arguments and result.
  CallSite site;
  WarpOperation operation;
  unsigned mask;
  int argument;
  uint64_t value;
  char* barrier_address;  // of a __syncwarp

  int num_async_groups;  // committed groups
  std::vector<AsyncCopy> async_copies;
};

struct Warp {
  Thread* lanes[kNumLanes];
  unsigned exited;   // lanes that have exited, or do not exist
  unsigned waiting;  // lanes in a collective
  uint32_t rank;     // for schedules that prefer some warps

  // Addresses that stand for the warp's barriers, used in rotation: a lane may wait again before others have left. If a
  // slow lane leaves after a much later barrier at its address, a race may stay hidden, but none is invented.
  char barrier_addresses[64];
  unsigned num_barriers;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  size_t num_threads, num_warps;  // elements of the vectors in use
  unsigned num_running, num_at_barrier;
  int predicate_count, barrier_result;
  int barrier_turn;
  char barrier_address[2];
  SharedArena shared;
  size_t static_shared_bytes;
};

}  // namespace
}  // namespace bse::emulator

// The interface between kernels compiled by g++ and the emulator's runtime (runtime.cpp).
//
// The threads of a kernel call all functions here but config(), statistics() and run(). Kernels see them
// only through emulator.h. An error (divergent barrier, deadlock, ...) ends the launch: run() throws
// std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/vector_types.h"

namespace bse::emulator {

// Options for the execution of kernels. Initial values come from environment variables BSE_EMULATOR_<NAME>. Programs
// may change them between launches. Schedules depend on the seed and on the number of earlier launches.
struct Config {
  uint64_t seed = 1;                   // SEED; 0: a fixed order without preemption
  uint64_t preemption = 16;            // PREEMPTION: mean number of atomics between two preemptions; 0: hardly any
  uint64_t resident_blocks = 2;        // RESIDENT_BLOCKS: blocks whose threads interleave
  uint64_t num_multiprocessors = 4;    // NUM_MULTIPROCESSORS: number that launchers see
  uint64_t max_shared_bytes = 166912;  // MAX_SHARED_BYTES per block; 163 KiB as on sm_80, the oldest target
  uint64_t stack_bytes = 256 << 10;    // STACK_BYTES per thread; set before the first launch
  uint64_t max_idle_steps = 1 << 20;   // MAX_IDLE_STEPS: turns without progress, then a livelock is reported
  uint64_t max_steps = 1ull << 33;     // MAX_STEPS of a launch, then a livelock is reported
};

Config& config();

// Counts over all launches so far.
struct Statistics {
  uint64_t num_launches, num_threads, num_switches, num_warp_collectives, num_barriers;
};

const Statistics& statistics();

// Place of a call in a kernel.
struct CallSite {
  const char* file;
  int line;
};
#define BSE_CALL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// threadIdx and so on of the running thread. Launches exclude each other, so one pointer serves the process.
struct ThreadIdentity {
  uint3 thread_index, block_index;
  dim3 block_dim, grid_dim;
};
extern const ThreadIdentity* current_thread;

using KernelThread = void (*)(const void* context);  // runs one thread
void run(dim3 grid, dim3 block, size_t dynamic_shared_bytes, KernelThread thread, const void* context);

// Ends the launch with this message.
[[noreturn]] void fail(const char* message, CallSite site);

// At a preemption point, another thread may be scheduled. At a yield, another one is scheduled if any can run.
void preemption_point(CallSite site);
void yield(CallSite site);

// Waits for all threads of the block that have not exited. Returns the number of threads whose predicate held.
int block_barrier(bool predicate, CallSite site);

enum class WarpOperation {
  kSync,
  kShuffle,  // argument: the lane to read
  kBallot,
  kMatchAny,
  kReduceAdd,
  kReduceMin,  // argument: whether the value is signed
  kReduceMax,  // argument: whether the value is signed
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kMmaBf16,   // value: address of MmaOperands
  kMmaTf32,   // value: address of MmaOperands
  kLdmatrix,  // value: address of LdmatrixOperands
};

struct MmaOperands {
  float* acc;         // [4]
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};

struct LdmatrixOperands {
  uint32_t row[4];  // data at the lane's address
  uint32_t words[4];
};

// Waits for the lanes of the mask that have not exited, and combines their values. Returns the calling lane's result.
uint64_t warp_collective(WarpOperation operation, unsigned mask, uint64_t value, int argument, CallSite site);

// Returns shared memory of the block. Every piece has red zones and starts as garbage. `key` identifies a variable.
void* static_shared(const void* key, size_t num_bytes, const char* name, CallSite site);
// Returns the index-th piece of dynamic shared memory. `num_bytes_so_far` includes this piece.
void* dynamic_shared(int index, size_t num_bytes, size_t num_bytes_so_far, CallSite site);

// cp.async: a copy of 16 bytes that lands at its wait, or earlier at random.
void async_copy(void* shared_destination, const void* source, int num_source_bytes, CallSite site);
void async_commit();
void async_wait(int num_pending_groups);

}  // namespace bse::emulator

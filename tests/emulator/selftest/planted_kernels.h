// Small kernels that resemble those of the package. Each is correct with kNone, and wrong in one way with another Bug.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::planted {

enum class Bug {
  kNone,
  kNoBarrierBefore,     // reads before other threads have written
  kNoBarrierAfter,      // overwrites before other threads have read
  kDivergentBarrier,    // two barriers in two branches
  kBarrierForSome,      // a barrier that only some threads reach
  kBarrierAgainstVote,  // some threads wait at a barrier, others in a vote
  kSharedOffByOne,      // writes one element too far
  kUninitialized,       // reads shared memory before it is set
  kTooLittleShared,     // takes more shared memory than the launch has
  kMissingLane,         // a mask without the calling lane
  kFullMaskInBranch,    // a full mask where some lanes are elsewhere
  kInactiveSource,      // shuffles from a lane that does not take part
  kExitBeforeShuffle,   // lanes beyond n return before a full mask
  kNoSyncwarp,          // a warp exchanges through shared memory without a barrier
  kVoteAsBarrier,       // the same with a vote, which orders nothing
  kCheckThenAct,        // claims a hash slot by a plain read and write
  kLostUpdate,          // counts without an atomic
  kWrapsLate,           // probes one slot beyond the table
  kNotCleared,          // does not clear the hash table
  kRaceBetweenBlocks,   // adds to global memory without an atomic
  kSameValueWrites,     // many threads write the same value
  kNoWait,              // uses a cp.async copy before its wait
  kSwappedFragments,    // mma registers in the wrong order
  kWrongLdmatrixRow,    // ldmatrix rows in the wrong order
  kMisalignedCopy,      // cp.async to an address that is 8 bytes off
  kCopiesBeyondRow,     // does not fill the tail with zeros
  kMisalignedVector,    // float4 load from a misaligned address
  kGlobalOffByOne,      // reads one element too far
  kFenceOnly,           // "last block done" with relaxed atomics
  kGridBarrier,         // waits for blocks that are not resident
};

constexpr unsigned kAllLanes = ~0u;

// ---- threads exchange through shared memory

constexpr int kRotateThreads = 128;

// out[block, i] = in[block, (i + num_rounds) % 128] + sum of in[block, :]
template <Bug kBug>
__global__ void rotate_kernel(int num_rounds, const int* in, int* out) {
  BSE_SHARED(int, sum);
  device::SharedMemory shared;
  int* const values = shared.take<int>(kRotateThreads);
  const int thread = static_cast<int>(threadIdx.x);
  const size_t own = size_t{blockIdx.x} * kRotateThreads + threadIdx.x;
  if (thread == 0 && kBug != Bug::kUninitialized) sum = 0;
  int value = in[own];
  values[kBug == Bug::kSharedOffByOne ? thread + 1 : thread] = value;
  if (kBug != Bug::kNoBarrierBefore) __syncthreads();
  for (int round = 0; round < num_rounds; ++round) {
    value = values[(thread + 1) % kRotateThreads];
    if (kBug != Bug::kNoBarrierAfter) __syncthreads();
    values[thread] = value;
    __syncthreads();
  }
  atomicAdd(&sum, value);
  if (kBug == Bug::kDivergentBarrier) {
    if (thread < 64) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (kBug == Bug::kBarrierForSome) {
    if (thread < 100) __syncthreads();
  } else if (kBug == Bug::kBarrierAgainstVote) {
    if (thread < 100) {
      __syncthreads();
    } else {
      __any_sync(kAllLanes, 0);
    }
  } else {
    __syncthreads();
  }
  out[own] = value + sum;
}

// ---- warps

// Appends the positive values of in[n] to kept, in any order. reversed[n] is in[n] with each warp's 32 values reversed.
template <Bug kBug>
__global__ void compact_kernel(const int* in, int n, int* num_kept, int* kept, int* reversed) {
  BSE_SHARED(int, stage, [4][32]);
  const int thread = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (kBug == Bug::kExitBeforeShuffle && thread >= n) return;
  const int value = thread < n ? in[thread] : 0;
  const bool keep = value > 0;
  const unsigned members = __ballot_sync(kBug == Bug::kMissingLane ? 0x7FFFFFFFu : kAllLanes, keep);
  int sum = value;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_xor_sync(kAllLanes, sum, delta);
  if (keep) {
    const int leader = __ffs(static_cast<int>(members)) - 1;
    int begin = 0;
    if (lane == leader) begin = atomicAdd(num_kept, __popc(members));
    begin = __shfl_sync(kBug == Bug::kFullMaskInBranch ? kAllLanes : members, begin,
                        kBug == Bug::kInactiveSource ? 0 : leader);
    kept[begin + __popc(members & ((1u << lane) - 1))] = value + 0 * sum;
  }
  stage[warp][lane] = value;
  if (kBug == Bug::kVoteAsBarrier) {
    __any_sync(kAllLanes, 0);
  } else if (kBug != Bug::kNoSyncwarp) {
    __syncwarp();
  }
  if (thread < n) reversed[thread] = stage[warp][31 - lane];
}

// ---- a hash table in shared memory

constexpr int kNumSlots = 64;
constexpr uint32_t kEmpty = ~0u;

BSE_DEVICE int hash_slot(uint32_t key) { return static_cast<int>(key * 2654435769u >> 26); }

// histogram[key] += count of key in in[block, n]. At most kNumSlots keys are distinct, so the table may become full.
template <Bug kBug>
__global__ void histogram_kernel(const uint32_t* in, int n, int* histogram, int* is_full) {
  BSE_SHARED(uint32_t, keys, [kNumSlots]);
  BSE_SHARED(int, counts, [kNumSlots]);
  BSE_SHARED(int, num_keys);
  const int thread = static_cast<int>(threadIdx.x), num_threads = static_cast<int>(blockDim.x);
  if (kBug != Bug::kNotCleared) {
    for (int slot = thread; slot < kNumSlots; slot += num_threads) {
      keys[slot] = kEmpty;
      counts[slot] = 0;
    }
  }
  if (thread == 0) num_keys = 0;
  if (kBug != Bug::kNoBarrierBefore) __syncthreads();
  for (int i = thread; i < n; i += num_threads) {
    const uint32_t key = in[static_cast<int>(blockIdx.x) * n + i];
    int slot = hash_slot(key);
    for (int probe = 0; probe < 2 * kNumSlots; ++probe) {
      uint32_t found;
      if (kBug == Bug::kCheckThenAct) {
        found = keys[slot];
        if (found == kEmpty) keys[slot] = key;
      } else {
        found = atomicCAS(&keys[slot], kEmpty, key);
      }
      if (found == kEmpty) atomicAdd(&num_keys, 1);
      if (found == kEmpty || found == key) break;
      if (++slot >= kNumSlots + (kBug == Bug::kWrapsLate ? 1 : 0)) slot = 0;
    }
    if (kBug == Bug::kLostUpdate) {
      counts[slot] = counts[slot] + 1;
    } else {
      atomicAdd(&counts[slot], 1);
    }
  }
  __syncthreads();
  for (int slot = thread; slot < kNumSlots; slot += num_threads) {
    if (keys[slot] == kEmpty) continue;
    if (kBug == Bug::kRaceBetweenBlocks) {
      histogram[keys[slot]] += counts[slot];
    } else {
      atomicAdd(&histogram[keys[slot]], counts[slot]);
    }
  }
  if ((thread == 0 || kBug == Bug::kSameValueWrites) && num_keys == kNumSlots) is_full[blockIdx.x] = 1;
}

// ---- tensor cores fed by asynchronous copies

constexpr int kTileRows = 32, kTileColumns = 8, kChunk = 16, kPitch = kChunk + 8;

// out[32, 8] = a[32, depth] b[8, depth]^T, bfloat16; depth is a multiple of 8. Two warps of 16 rows each.
template <Bug kBug>
__global__ void tile_kernel(const uint16_t* a, const uint16_t* b, int depth, float* out) {
  BSE_SHARED(uint16_t, a_chunks, [2][kTileRows][kPitch]);
  BSE_SHARED(uint16_t, b_chunks, [2][kTileColumns][kPitch]);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, first_row = thread / 32 * 16;
  const int num_chunks = (depth + kChunk - 1) / kChunk;
  const auto start = [&](int chunk) {
    const int row = thread / 2, offset = thread % 2 * 8, column = chunk * kChunk + offset;
    const bool is_tail = column >= depth && kBug != Bug::kCopiesBeyondRow;
    const int num_bytes = is_tail ? 0 : 16, source = row * depth + (is_tail ? 0 : column);
    const int shift = kBug == Bug::kMisalignedCopy ? 4 : 0;
    ptx::cp_async16(&a_chunks[chunk % 2][row][offset + shift], a + source, num_bytes);
    if (row < kTileColumns) ptx::cp_async16(&b_chunks[chunk % 2][row][offset], b + source, num_bytes);
    ptx::cp_async_commit();
  };
  float acc[4] = {};
  start(0);
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    if (chunk + 1 < num_chunks) {
      start(chunk + 1);
      if (kBug != Bug::kNoWait) ptx::cp_async_wait<1>();
    } else {
      ptx::cp_async_wait<0>();
    }
    if (kBug != Bug::kNoBarrierBefore) __syncthreads();
    uint32_t a_words[4], b_words[2];
    if (kBug == Bug::kWrongLdmatrixRow) {
      ptx::ldmatrix_x4(a_words, &a_chunks[chunk % 2][first_row + lane / 2][8 * (lane % 2)]);
    } else {
      ptx::ldmatrix_x4(a_words, &a_chunks[chunk % 2][first_row + lane % 16][8 * (lane / 16)]);
    }
    if (kBug == Bug::kSwappedFragments) {
      const uint32_t word = a_words[1];
      a_words[1] = a_words[2];
      a_words[2] = word;
    }
    for (int i = 0; i < 2; ++i) {
      const uint16_t* const pair = &b_chunks[chunk % 2][lane / 4][2 * (lane % 4) + 8 * i];
      b_words[i] = static_cast<uint32_t>(pair[0]) | static_cast<uint32_t>(pair[1]) << 16;
    }
    ptx::mma_m16n8k16_bf16(acc, a_words, b_words);
    if (kBug != Bug::kNoBarrierAfter) __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    out[(first_row + lane / 4 + 8 * (i / 2)) * kTileColumns + 2 * (lane % 4) + i % 2] = acc[i];
  }
}

// ---- global memory

// out[i] = in[4 i] + ... + in[4 i + 3] + in[4 n - 1]
template <Bug kBug>
__global__ void vector_kernel(const float* in, int n, float* out) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= n) return;
  const int shift = kBug == Bug::kMisalignedVector && thread > 0 ? -1 : 0;
  const float4 v = *reinterpret_cast<const float4*>(in + 4 * thread + shift);
  out[thread] = v.x + v.y + v.z + v.w + in[kBug == Bug::kGlobalOffByOne ? 4 * n : 4 * n - 1];
}

// total = sum over blocks of (block + 1), added up by the last block to finish.
template <Bug kBug>
__global__ void last_block_kernel(int* parts, unsigned* num_done, int* total) {
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  unsigned before;
  if (kBug == Bug::kFenceOnly) {
    __threadfence();
    before = atomicAdd(num_done, 1u);
    __threadfence();
  } else {
    before = device::fetch_add_acq_rel(num_done, 1u);
  }
  if (kBug == Bug::kGridBarrier) {
    while (device::load_acquire(num_done) < gridDim.x) device::yield();
  }
  if (before != gridDim.x - 1) return;
  int sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  *total = sum;
}

}  // namespace bse::planted

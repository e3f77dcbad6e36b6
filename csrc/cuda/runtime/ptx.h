// The only inline PTX of the package: one wrapper per instruction. Each wrapper has an emulated twin in tests/emulator.
//
// Fragments, with group = lane / 4 and member = lane % 4 (PTX ISA, "Matrix fragments for mma"). A word holds a pair of
// bfloat16, element 0 in the low half.
//   mma_m16n8k16_bf16   a[0] A[group][2 member, +1]   a[1] A[group + 8][same]   a[2], a[3] the same, columns + 8
//                       b[0] B[2 member, +1][group]   b[1] the same, rows + 8
//   mma_m16n8k8_tf32    a[0] A[group][member]   a[1] A[group + 8][member]   a[2], a[3] the same, columns + 4
//                       b[0] B[member][group]   b[1] B[member + 4][group]
//   both                acc[0], acc[1] C[group][2 member, +1]   acc[2], acc[3] C[group + 8][same]
// All 32 lanes call mma and ldmatrix together. Products of bfloat16 are exact; the rounding of sums depends on the
// device.
#pragma once

#include <cstdint>

#include "cuda/runtime/device.h"

#if !defined(__CUDACC__)
#include "emulator/ptx_twins.h"
#else

namespace bse::ptx {

// acc[16, 8] += a[16, 16] b[16, 8]
BSE_DEVICE void mma_m16n8k16_bf16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// acc[16, 8] += a[16, 8] b[8, 8]. Words are float32; their low 13 bits are ignored.
BSE_DEVICE void mma_m16n8k8_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

BSE_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Loads four 8 x 8 matrices of 16-bit elements. Lane l passes the address of row l % 8 of matrix l / 8 (16 bytes,
// aligned). It receives the elements [l / 4][2 (l % 4), +1] of matrix i in words[i].
BSE_DEVICE void ldmatrix_x4(uint32_t (&words)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// Starts a copy of 16 bytes; source and destination are aligned to 16. Bytes from num_source_bytes on are not read and
// become zero.
BSE_DEVICE void cp_async16(void* shared_destination, const void* global_source, int num_source_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared_destination)),
               "l"(__cvta_generic_to_global(global_source)), "r"(num_source_bytes)
               : "memory");
}

// Closes a group of copies. Groups complete in order.
BSE_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kNumPending of this thread's groups are incomplete. To see copies of other threads, a barrier
// must follow.
template <int kNumPending>
BSE_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNumPending) : "memory");
}

}  // namespace bse::ptx
#endif

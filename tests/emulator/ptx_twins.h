// The instructions of csrc/cuda/runtime/ptx.h in the emulator.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/runtime.h"

namespace bse::ptx {

inline void mma_m16n8k16_bf16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BSE_CALL_SITE) {
  const emulator::MmaOperands operands{acc, a, b};
  emulator::warp_collective(emulator::WarpOperation::kMmaBf16, ~0u, reinterpret_cast<uintptr_t>(&operands), 0,
                            {file, line});
}

inline void mma_m16n8k8_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BSE_CALL_SITE) {
  const emulator::MmaOperands operands{acc, a, b};
  emulator::warp_collective(emulator::WarpOperation::kMmaTf32, ~0u, reinterpret_cast<uintptr_t>(&operands), 0,
                            {file, line});
}

inline void ldmatrix_x4(uint32_t (&words)[4], const void* shared_row, BSE_CALL_SITE) {
  if (reinterpret_cast<uintptr_t>(shared_row) % 16 != 0) emulator::fail("ldmatrix: misaligned row", {file, line});
  emulator::LdmatrixOperands operands;
  // The row is read here, word by word, so that sanitizers see the access as this lane's.
  for (int i = 0; i < 4; ++i) operands.row[i] = static_cast<const uint32_t*>(shared_row)[i];
  emulator::warp_collective(emulator::WarpOperation::kLdmatrix, ~0u, reinterpret_cast<uintptr_t>(&operands), 0,
                            {file, line});
  std::memcpy(words, operands.words, sizeof words);
}

inline void cp_async16(void* shared_destination, const void* global_source, int num_source_bytes = 16, BSE_CALL_SITE) {
  if (num_source_bytes < 0 || num_source_bytes > 16) emulator::fail("cp.async: source size", {file, line});
  const auto alignment = reinterpret_cast<uintptr_t>(shared_destination) | reinterpret_cast<uintptr_t>(global_source);
  if (alignment % 16 != 0) emulator::fail("cp.async: misaligned", {file, line});
  // Source and destination are accessed here, where sanitizers see the line. The destination is NaN until the copy
  // lands.
  for (int i = 0; i < num_source_bytes; ++i) (void)static_cast<const volatile unsigned char*>(global_source)[i];
  for (int i = 0; i < 16; ++i) static_cast<volatile unsigned char*>(shared_destination)[i] = 0xFF;
  emulator::async_copy(shared_destination, global_source, num_source_bytes, {file, line});
}

inline void cp_async_commit() { emulator::async_commit(); }

template <int kNumPending>
void cp_async_wait() {
  static_assert(kNumPending >= 0, "number of groups");
  emulator::async_wait(kNumPending);
}

}  // namespace bse::ptx

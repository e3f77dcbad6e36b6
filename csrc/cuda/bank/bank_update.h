// Stores embeddings in a bank on the device. The tables are identical, bit for bit, to those of the CPU engine;
// csrc/cpu/bank/bank_update.h defines the rounding.
//
// All pointers are borrowed and point to memory of the current device. Work is queued on `stream`. Nothing here
// allocates, synchronizes, or reads device memory on the host. An update with a bad value stores nothing: one kernel
// checks all of it, and the next one stores only if nothing was reported.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/runtime/status.h"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

struct BankTables {
  void* data = nullptr;       // [num_instances, dim], of `dtype`
  void* documents = nullptr;  // the same for the second tower, or null
  DType dtype = DType::kFloat32;
  int64_t num_instances = 0, dim = 0;  // num_instances < 2^31
  int64_t* last_update = nullptr;      // [num_instances], step of the latest update, or -1 if there was none
  uint64_t* claims = nullptr;  // [num_instances], update_number << 32 | position of the row that is kept; 0 at first
};

struct BankUpdate {
  const int64_t* ids = nullptr;  // [num_rows]; of equal ids the last storable row is kept
  DeviceMatrix rows;             // [num_rows, dim]
  DeviceMatrix document_rows;    // [num_rows, dim] if there are documents
  int64_t num_rows = 0;          // < 2^31
  int64_t step = 0;
  uint32_t update_number = 0;  // grows with each update of a bank, from 1 on, so old claims need no clearing
  float momentum = 0;          // m of csrc/cpu/bank/bank_update.h; 0: no mixing
  bool normalize = true;
  bool skips = false;  // whether rows that are not storable are skipped and counted; otherwise they are errors
};

// Layout of the error log in device memory. It begins with the kNumStatusWords status words (status.h) of the first
// refused update that is still unread, and the step of that update. The total number of skipped rows follows.
// Initially the last word is 0, and all bits of the other words are set.
constexpr int kRefusedStepWord = kNumStatusWords, kNumSkippedWord = kNumStatusWords + 1;
constexpr int kNumErrorLogWords = kNumStatusWords + 2;

// Queues one update. scratch: bank_scratch_bytes() bytes, aligned to 8      error_log: [kNumErrorLogWords]
size_t bank_scratch_bytes();
void launch_bank_update(const BankTables& bank, const BankUpdate& update, uint64_t* error_log, void* scratch,
                        void* stream);

}  // namespace bse::cuda

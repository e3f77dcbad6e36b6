// Storing embeddings in a bank on the device: what csrc/cpu/bank/bank_update.h is on the CPU, with the same tables to
// the bit (that page defines the rounding).
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream`; nothing here allocates,
// synchronizes, or reads device memory on the host. An update with a bad value stores nothing, whichever thread finds
// it: one kernel checks all of it, the next one stores unless the first has reported something.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/runtime/status.h"
#include "cuda/types/device_matrix.h"

namespace bse::cuda {

struct BankTables {
  void* data = nullptr;       // [num_instances, dim], of `dtype`
  void* documents = nullptr;  // the same of the second tower, or null
  DType dtype = DType::kFloat32;
  int64_t num_instances = 0, dim = 0;  // num_instances < 2^31
  int64_t* last_update = nullptr;      // [num_instances], step of the latest update, -1 never
  uint64_t* claims = nullptr;  // [num_instances], zeros at first: update_number and position of the row that is kept
};

struct BankUpdate {
  const int64_t* ids = nullptr;  // [num_rows]; of equal ids the last storable row is kept
  DeviceMatrix rows;             // [num_rows, dim]
  DeviceMatrix document_rows;    // [num_rows, dim] if there are documents
  int64_t num_rows = 0;          // < 2^31
  int64_t step = 0;
  uint32_t update_number = 0;  // larger at each update of a bank, from 1 on: claims of earlier ones need no clearing
  float momentum = 0;
  bool normalize = true;
  bool skips = false;  // rows that are not storable are left out and counted; otherwise they are errors
};

// What updates have found, in device memory: `kNumStatusWords` words of the first refused update (status.h) that has
// not been read yet, its step, and the number of rows skipped in all. Begins as all bits set, and the last word 0.
constexpr int kRefusedStepWord = kNumStatusWords, kNumSkippedWord = kNumStatusWords + 1;
constexpr int kNumErrorLogWords = kNumStatusWords + 2;

// scratch: bank_scratch_bytes() bytes, aligned to 8      error_log: [kNumErrorLogWords]
size_t bank_scratch_bytes();
void launch_bank_update(const BankTables& bank, const BankUpdate& update, uint64_t* error_log, void* scratch,
                        void* stream);

}  // namespace bse::cuda

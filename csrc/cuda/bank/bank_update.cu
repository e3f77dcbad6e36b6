#include "common/bank_limit.h"
#include "cuda/bank/bank_update.h"
#include "cuda/bank/bank_update_kernel.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

constexpr int64_t kBlocksPerMultiprocessor = 16;

}  // namespace

size_t bank_scratch_bytes() { return kNumCheckResultWords * sizeof(uint64_t); }

void launch_bank_update(const BankTables& bank, const BankUpdate& update, uint64_t* error_log, void* scratch,
                        void* stream) {
  if (update.num_rows == 0) return;
  auto* const check_result = static_cast<uint64_t*>(scratch);
  const auto queue = static_cast<device::Stream>(stream);
  device::fill_async(check_result, 0xFF, bank_scratch_bytes(), queue);
  device::launch(bank_check_kernel, grid_size(update.num_rows, kBankWarps, kBlocksPerMultiprocessor), 32 * kBankWarps,
                 0, queue, bank, update, first_infinite(bank.dtype, update.normalize), check_result);
  device::launch(bank_store_kernel, grid_size(update.num_rows, kBankWarps * kBankRowsAtOnce, kBlocksPerMultiprocessor),
                 32 * kBankWarps, 0, queue, bank, update, check_result, error_log);
}

}  // namespace bse::cuda

#include "common/bank_limit.h"
#include "cuda/bank/bank_update.h"
#include "cuda/bank/bank_update_kernel.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

constexpr int64_t kBlocksPerMultiprocessor = 16;

}  // namespace

size_t bank_scratch_bytes() { return kNumVerdictWords * sizeof(uint64_t); }

void launch_bank_update(const BankTables& bank, const BankUpdate& update, uint64_t* ledger, void* scratch,
                        void* stream) {
  if (update.num_rows == 0) return;
  auto* const verdict = static_cast<uint64_t*>(scratch);
  const auto queue = static_cast<device::Stream>(stream);
  device::fill_async(verdict, 0xFF, bank_scratch_bytes(), queue);
  device::launch(bank_check_kernel, grid_size(update.num_rows, kBankWarps, kBlocksPerMultiprocessor), 32 * kBankWarps,
                 0, queue, bank, update, first_infinite(bank.dtype, update.normalize), verdict);
  device::launch(bank_store_kernel, grid_size(update.num_rows, kBankWarps * kBankRowsAtOnce, kBlocksPerMultiprocessor),
                 32 * kBankWarps, 0, queue, bank, update, verdict, ledger);
}

}  // namespace bse::cuda

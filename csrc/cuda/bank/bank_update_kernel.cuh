// An update of the bank in two kernels: check and claim, then normalize, mix and scatter.
//
//   claims[id] = max over storable rows of this id of (update_number, position)
//   table[id]  = stored(unit(m * table[id] + (1 - m) * unit(row))), where row is the one that claims[id] names
//
// So the last of equal ids is kept, whatever the schedule. csrc/cpu/bank/bank_update.h defines the rounding.
// A squared norm consists of eight chains: chain j sums the elements j, j + 8, and so on. Eight lanes take a row, one
// chain each. A butterfly adds up their sums in the defined order, since a + b equals b + a. A warp computes the scales
// of four rows at once, and then writes the rows one after the other with all its lanes. A row may have any width, so
// it is not kept in between. It is read and mixed again, with the same result. O(num_rows dim).
#pragma once

#include "cuda/bank/bank_update.h"
#include "cuda/runtime/device.h"
#include "cuda/runtime/report.cuh"
#include "cuda/runtime/threads.cuh"

namespace bse::cuda {

constexpr int kBankWarps = 4;       // warps of a block
constexpr int kBankRowsAtOnce = 4;  // rows of a warp, 8 lanes each

// Result of the check: status words (status.h), and the number of skipped rows minus one. All words begin with all bits
// set.
constexpr int kNumCheckResultWords = kNumStatusWords + 1, kSkippedLessOneWord = kNumStatusWords;

BSE_DEVICE uint64_t claim_of(const BankUpdate& update, int64_t position) {
  return uint64_t{update.update_number} << 32 | static_cast<uint32_t>(position);
}

// Returns whether all |values| of the row are below the limit, and none is NaN. All lanes call it and get the same
// result. limit: first_infinite() of common/bank_limit.h
BSE_DEVICE bool is_storable(const DeviceMatrix& rows, int64_t row, float limit) {
  bool storable = true;
  for (int64_t k = threadIdx.x % 32; k < rows.dim; k += 32) storable &= fabsf(rows.element(row, k)) < limit;
  return __all_sync(kAllLanes, storable) != 0;
}

// Checks the rows and ids of an update, and claims instances for storable rows. One warp per row.
// check_result: [kNumCheckResultWords]
__global__ void __launch_bounds__(32 * kBankWarps)
    bank_check_kernel(BankTables bank, BankUpdate update, float limit, uint64_t* check_result) {
  const int64_t warp = int64_t{blockIdx.x} * kBankWarps + threadIdx.x / 32, num_warps = int64_t{gridDim.x} * kBankWarps;
  for (int64_t row = warp; row < update.num_rows; row += num_warps) {
    const bool is_good = is_storable(update.rows, row, limit);
    const bool is_key_good = bank.documents == nullptr || is_storable(update.document_rows, row, limit);
    if (threadIdx.x % 32 != 0) continue;
    const int64_t id = update.ids[row];
    const auto position = static_cast<uint32_t>(row);
    if (id < 0 || id >= bank.num_instances) {
      const int64_t nearest = id < INT32_MIN ? INT32_MIN : id > INT32_MAX ? INT32_MAX : id;
      report(check_result, StatusKind::kBankIdOutOfRange, position, static_cast<uint32_t>(nearest));
    } else if (is_good && is_key_good) {
      atomicMax(&bank.claims[id], claim_of(update, row));
    } else if (update.skips) {
      atomicAdd(&check_result[kSkippedLessOneWord], uint64_t{1});
    } else if (!is_good) {
      report(check_result, StatusKind::kBankRowNotStorable, position, static_cast<uint32_t>(id));
    } else {
      report(check_result, StatusKind::kBankDocumentNotStorable, position, static_cast<uint32_t>(id));
    }
  }
}

// Returns the factor that makes a row a unit row, from the chains of the row's eight lanes. It is 1 for a zero row. All
// lanes call it.
BSE_DEVICE double unit_scale(double chain) {
  BSE_UNROLL
  for (int distance = 1; distance < 8; distance *= 2) chain += __shfl_xor_sync(kAllLanes, chain, distance);
  return chain == 0 ? 1.0 : 1 / sqrt(chain);
}

struct RowScales {
  double own = 1;    // factor of the new row
  double mixed = 1;  // factor of the mix of the new and the stored row
};

struct RowMixer {
  DeviceMatrix rows, table;
  float kept, added;  // m, 1 - m

  BSE_DEVICE float unit_element(int64_t row, int64_t k, double scale) const {
    return static_cast<float>(rows.element(row, k) * scale);
  }
  BSE_DEVICE float mixed_element(int64_t row, int64_t id, int64_t k, double scale) const {
    return __fadd_rn(__fmul_rn(kept, table.element(id, k)), __fmul_rn(added, unit_element(row, k, scale)));
  }
  BSE_DEVICE void store(int64_t id, int64_t k, float value) const {
    const int64_t offset = id * table.dim + k;
    void* const data = const_cast<void*>(table.data);
    if (table.dtype == DType::kFloat32) {
      static_cast<float*>(data)[offset] = value;
    } else {
      static_cast<uint16_t*>(data)[offset] =
          table.dtype == DType::kBFloat16 ? float_to_bfloat16(value) : float_to_float16(value);
    }
  }
};

// Stores the four rows of a warp from `first` on. Lanes 8 i to 8 i + 7 pass is_kept, is_mixed and the instance id of
// row first + i.
BSE_DEVICE void store_rows(const RowMixer& mixer, int64_t first, bool normalize, bool is_kept, bool is_mixed,
                           int64_t id) {
  const unsigned lane = threadIdx.x % 32;
  const int64_t dim = mixer.table.dim, row = first + lane / 8;
  RowScales scales;
  if (normalize) {
    double chain = 0;
    if (is_kept) {
      for (int64_t k = lane % 8; k < dim; k += 8) {
        const double value = mixer.rows.element(row, k);
        chain += value * value;  // the product is exact
      }
    }
    scales.own = unit_scale(chain);
    if (__any_sync(kAllLanes, is_mixed)) {
      chain = 0;
      if (is_mixed) {
        for (int64_t k = lane % 8; k < dim; k += 8) {
          const double value = mixer.mixed_element(row, id, k, scales.own);
          chain += value * value;
        }
      }
      scales.mixed = unit_scale(chain);
    }
  }
  const unsigned kept_lanes = __ballot_sync(kAllLanes, is_kept), mixed_lanes = __ballot_sync(kAllLanes, is_mixed);
  __syncwarp();  // all lanes have read the stored rows and last_update, before other lanes overwrite them
  for (int i = 0; i < kBankRowsAtOnce; ++i) {
    const int owner = 8 * i;
    const int64_t target = __shfl_sync(kAllLanes, id, owner);
    const double own = __shfl_sync(kAllLanes, scales.own, owner), mixed = __shfl_sync(kAllLanes, scales.mixed, owner);
    if ((kept_lanes >> owner & 1) == 0) continue;
    const bool mixes = (mixed_lanes >> owner & 1) != 0;
    for (int64_t k = lane; k < dim; k += 32) {
      mixer.store(target, k,
                  mixes ? static_cast<float>(mixer.mixed_element(first + i, target, k, own) * mixed)
                        : mixer.unit_element(first + i, k, own));
    }
  }
}

// Stores the claimed rows if the check reported nothing. Otherwise logs the report, unless an earlier one is unread.
// check_result: [kNumCheckResultWords]      error_log: [kNumErrorLogWords]
__global__ void __launch_bounds__(32 * kBankWarps)
    bank_store_kernel(BankTables bank, BankUpdate update, const uint64_t* check_result, uint64_t* error_log) {
  bool is_refused = false;
  for (int kind = 0; kind < kNumStatusWords; ++kind) is_refused |= check_result[kind] != kNoReport;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    bool is_first = true;  // whether no other refused update is in the log
    for (int kind = 0; kind < kNumStatusWords; ++kind) is_first &= error_log[kind] == kNoReport;
    if (!is_refused) {
      error_log[kNumSkippedWord] += check_result[kSkippedLessOneWord] + 1;
    } else if (is_first) {
      for (int kind = 0; kind < kNumStatusWords; ++kind) error_log[kind] = check_result[kind];
      error_log[kRefusedStepWord] = static_cast<uint64_t>(update.step);
    }
  }
  if (is_refused) return;
  const unsigned lane = threadIdx.x % 32;
  const int64_t warp = int64_t{blockIdx.x} * kBankWarps + threadIdx.x / 32, num_warps = int64_t{gridDim.x} * kBankWarps;
  const float added = __fsub_rn(1.0f, update.momentum);
  const DeviceMatrix table{bank.data, bank.dtype, bank.num_instances, bank.dim, bank.dim, false};
  for (int64_t first = warp * kBankRowsAtOnce; first < update.num_rows; first += num_warps * kBankRowsAtOnce) {
    const int64_t row = first + lane / 8;
    const int64_t id = row < update.num_rows ? update.ids[row] : 0;
    const bool is_kept = row < update.num_rows && bank.claims[id] == claim_of(update, row);
    const bool is_mixed = is_kept && update.momentum > 0 && bank.last_update[id] >= 0;
    store_rows({update.rows, table, update.momentum, added}, first, update.normalize, is_kept, is_mixed, id);
    if (bank.documents != nullptr) {
      DeviceMatrix key_table = table;
      key_table.data = bank.documents;
      store_rows({update.document_rows, key_table, update.momentum, added}, first, update.normalize, is_kept, is_mixed,
                 id);
    }
    if (is_kept && lane % 8 == 0) bank.last_update[id] = update.step;
  }
}

}  // namespace bse::cuda

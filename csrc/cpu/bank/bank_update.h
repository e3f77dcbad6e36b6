// Stores embeddings in the bank: optionally normalizes them and mixes them with the stored rows, then rounds.
//
// Normalization: u_k = float32(x_k * (1 / sqrt(n))) with n = sum of x_k^2 in float64. The sum has eight chains: chain j
// adds k = j, j + 8, ... ascending. They are added as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). A zero row stays zero.
// Mixing with momentum m, if the instance has a stored row: m * old + (1 - m) * u. Each operation rounds to float32.
// The result is normalized again if normalization is on.
// Everything is checked before anything is stored. Complexity O(num_rows * dim). All of it is one call, because caches
// are cold between training steps and a further call from Python would cost more than the work.
//
// Banks in files have a checksum of each row. It is written last, so it tells rows that are damaged, and the row that
// was being stored when a process was stopped. It is made of 64-bit words: last_update, then the bytes of the data row,
// then those of the document row, each row padded with zero bytes. There are four lanes, at first 1, 2, 3 and 4. Word k
// of a row goes to lane k mod 4, and last_update to lane 0: lane = rotate_left(lane + word, 29) * kChecksumFactor. The
// checksum is the sum of the lanes. A change of one word always changes it.
#pragma once

#include <cstdint>

#include "common/float_types.h"

namespace bse {

struct BankTables {
  void* data;       // [num_instances, dim] of `dtype`
  void* documents;  // the same for the second tower, or null
  DType dtype;
  int64_t num_instances, dim;
  int64_t* last_update;          // [num_instances] step of the latest update, or -1 for none
  int64_t* checksums = nullptr;  // [num_instances] of each row, or null
};

constexpr uint64_t kChecksumFactor = 0x9E3779B97F4A7C15;

struct BankUpdate {
  const int64_t* ids;          // [num_rows], distinct if there is momentum; otherwise the last of equal ids wins
  const float* rows;           // [num_rows, dim]
  const float* document_rows;  // [num_rows, dim], or null
  int64_t num_rows, step;
  float momentum;  // m, or 0 for no mixing
  bool normalize;
};

enum class UpdateError { kNone, kId, kRow, kDocumentRow };

struct UpdateResult {
  UpdateError error = UpdateError::kNone;  // if there is an error, nothing was stored
  int64_t position = -1;                   // index of the first id outside [0, num_instances), or of the first row with
                                           // a value that is not finite, or would not be once stored
};

UpdateResult update_bank(const BankTables& bank, const BankUpdate& update);

// Computes the checksums that the rows should have. out: [num_instances]
void row_checksums(const BankTables& bank, int64_t* out);

}  // namespace bse

// Storing embeddings in the bank: optional normalization, optional mixing with what was there, rounding to its type.
//
// Unit row: with n = sum of x_k^2 in float64, added up in eight chains (chain j takes k = j, j + 8, ... ascending; then
// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))), u_k = float32(x_k * (1 / sqrt(n))); a zero row stays zero.
// Mixing, for a row seen before: m * old + (1 - m) * u, each operation rounded to float32, then made a unit row again.
// Everything is checked before anything is stored. Complexity O(num_rows * dim). One call does it all: between two
// training steps caches are cold, and each further call from Python would cost more than the work.
#pragma once

#include <cstdint>

#include "common/float_types.h"

namespace bse {

struct BankTables {
  void* data;       // [num_instances, dim], of `dtype`
  void* documents;  // the same of the second tower, or null
  DType dtype;
  int64_t num_instances, dim;
  int64_t* last_update;  // [num_instances], step of the latest update, -1 never
};

struct BankUpdate {
  const int64_t* ids;          // [num_rows]; of equal ids the last one stays, but with momentum they must be distinct
  const float* rows;           // [num_rows, dim]
  const float* document_rows;  // [num_rows, dim], or null
  int64_t num_rows, step;
  float momentum;  // m; 0: no mixing
  bool normalize;
};

enum class UpdateError { kNone, kId, kRow, kDocumentRow };

struct UpdateResult {
  UpdateError error = UpdateError::kNone;  // otherwise nothing was stored
  int64_t position = -1;                   // of the first id outside [0, num_instances), or the first row with a value
                                           // that is not finite or would not be once stored
};

UpdateResult update_bank(const BankTables& bank, const BankUpdate& update);

}  // namespace bse

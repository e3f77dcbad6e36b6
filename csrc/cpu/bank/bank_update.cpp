#include "cpu/bank/bank_update.h"

#include <cmath>
#include <vector>

#include "common/bank_limit.h"

namespace bse {
namespace {

void make_unit(float* row /* [dim] */, int64_t dim) {
  double chain[8] = {};
  int64_t k = 0;
  for (; k + 8 <= dim; k += 8) {
    for (int j = 0; j < 8; ++j) chain[j] += double{row[k + j]} * row[k + j];
  }
  for (int j = 0; k < dim; ++k, ++j) chain[j] += double{row[k]} * row[k];
  const double squared_norm =
      ((chain[0] + chain[1]) + (chain[2] + chain[3])) + ((chain[4] + chain[5]) + (chain[6] + chain[7]));
  if (squared_norm == 0) return;
  const double scale = 1 / std::sqrt(squared_norm);
  for (k = 0; k < dim; ++k) row[k] = static_cast<float>(row[k] * scale);
}

// Returns the first row with a value that cannot be stored, or -1.
int64_t first_unstorable(const float* rows /* [num_rows, dim] */, const BankUpdate& update, const BankTables& bank) {
  const float limit = first_infinite(bank.dtype, update.normalize);
  for (int64_t i = 0; i < update.num_rows; ++i) {
    bool storable = true;
    for (int64_t k = 0; k < bank.dim; ++k) storable &= std::fabs(rows[i * bank.dim + k]) < limit;  // false for NaN
    if (!storable) return i;
  }
  return -1;
}

UpdateResult check(const BankTables& bank, const BankUpdate& update) {
  for (int64_t i = 0; i < update.num_rows; ++i) {
    if (update.ids[i] < 0 || update.ids[i] >= bank.num_instances) return {UpdateError::kId, i};
  }
  if (const int64_t row = first_unstorable(update.rows, update, bank); row >= 0) return {UpdateError::kRow, row};
  if (bank.documents != nullptr) {
    if (const int64_t row = first_unstorable(update.document_rows, update, bank); row >= 0) {
      return {UpdateError::kDocumentRow, row};
    }
  }
  return {};
}

// Normalizes, mixes and stores the rows. Instantiated for each element type of the table.
template <class Element, float (*kLoad)(Element), Element (*kStore)(float)>
void store(void* table, const float* rows, const BankTables& bank, const BankUpdate& update) {
  std::vector<float> row(bank.dim);
  const float kept = update.momentum, added = 1 - update.momentum;
  for (int64_t i = 0; i < update.num_rows; ++i) {
    Element* target = static_cast<Element*>(table) + update.ids[i] * bank.dim;
    row.assign(rows + i * bank.dim, rows + (i + 1) * bank.dim);
    if (update.normalize) make_unit(row.data(), bank.dim);
    if (kept > 0 && bank.last_update[update.ids[i]] >= 0) {
      for (int64_t k = 0; k < bank.dim; ++k) row[k] = kept * kLoad(target[k]) + added * row[k];
      if (update.normalize) make_unit(row.data(), bank.dim);
    }
    for (int64_t k = 0; k < bank.dim; ++k) target[k] = kStore(row[k]);
  }
}

float identity(float value) { return value; }

void store_as(void* table, const float* rows, const BankTables& bank, const BankUpdate& update) {
  switch (bank.dtype) {
    case DType::kFloat32:
      return store<float, identity, identity>(table, rows, bank, update);
    case DType::kBFloat16:
      return store<uint16_t, bfloat16_to_float, float_to_bfloat16>(table, rows, bank, update);
    case DType::kFloat16:
      return store<uint16_t, float16_to_float, float_to_float16>(table, rows, bank, update);
  }
}

}  // namespace

UpdateResult update_bank(const BankTables& bank, const BankUpdate& update) {
  const UpdateResult result = check(bank, update);
  if (result.error != UpdateError::kNone) return result;
  store_as(bank.data, update.rows, bank, update);
  if (bank.documents != nullptr) store_as(bank.documents, update.document_rows, bank, update);
  for (int64_t i = 0; i < update.num_rows; ++i) bank.last_update[update.ids[i]] = update.step;
  return result;
}

}  // namespace bse

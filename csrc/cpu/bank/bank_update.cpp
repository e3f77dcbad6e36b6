#include "cpu/bank/bank_update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

class Checksum {
 public:
  explicit Checksum(int64_t last_update) { add(0, static_cast<uint64_t>(last_update)); }

  void add_row(const void* row, int64_t num_bytes) {
    const char* bytes = static_cast<const char*>(row);
    for (; num_bytes >= 32; bytes += 32, num_bytes -= 32) {
      for (int j = 0; j < 4; ++j) add(j, load(bytes + 8 * j, 8));
    }
    for (int j = 0; num_bytes > 0; ++j, bytes += 8, num_bytes -= 8)
      add(j, load(bytes, std::min<int64_t>(8, num_bytes)));
  }

  int64_t value() const { return static_cast<int64_t>(lanes_[0] + lanes_[1] + lanes_[2] + lanes_[3]); }

 private:
  static uint64_t load(const char* bytes, int64_t num_bytes) {
    uint64_t word = 0;
    std::memcpy(&word, bytes, num_bytes);
    return word;
  }

  void add(int j, uint64_t word) {
    const uint64_t sum = lanes_[j] + word;
    lanes_[j] = (sum << 29 | sum >> 35) * kChecksumFactor;
  }

  uint64_t lanes_[4] = {1, 2, 3, 4};
};

// Memory for one row, as float32 and as stored. Checksums are computed from it, because the row itself is not in the
// cache yet.
template <class Element>
struct Row {
  explicit Row(int64_t dim) : values(dim), stored(dim) {}

  std::vector<float> values;
  std::vector<Element> stored;
};

// Normalizes, mixes and stores a row. Instantiated for each element type of the table.
template <class Element, float (*kLoad)(Element), Element (*kStore)(float)>
void store_row(void* table, int64_t id, const float* given, const BankTables& bank, const BankUpdate& update,
               Row<Element>& row) {
  Element* target = static_cast<Element*>(table) + id * bank.dim;
  float* values = row.values.data();
  const float kept = update.momentum, added = 1 - update.momentum;
  std::copy(given, given + bank.dim, values);
  if (update.normalize) make_unit(values, bank.dim);
  if (kept > 0 && bank.last_update[id] >= 0) {
    for (int64_t k = 0; k < bank.dim; ++k) values[k] = kept * kLoad(target[k]) + added * values[k];
    if (update.normalize) make_unit(values, bank.dim);
  }
  for (int64_t k = 0; k < bank.dim; ++k) row.stored[k] = kStore(values[k]);
  std::copy(row.stored.begin(), row.stored.end(), target);
}

constexpr int64_t kRowsAhead = 8;

// Begins to load what is written last. Instances of an update are far apart, so each would wait for memory otherwise.
void prefetch(const BankTables& bank, int64_t id) {
  __builtin_prefetch(bank.last_update + id, 1);
  if (bank.checksums != nullptr) __builtin_prefetch(bank.checksums + id, 1);
}

// One row after the other, so that a process that ends meanwhile leaves at most one row incomplete.
template <class Element, float (*kLoad)(Element), Element (*kStore)(float)>
void store(const BankTables& bank, const BankUpdate& update) {
  Row<Element> row(bank.dim);
  const int64_t num_bytes = bank.dim * static_cast<int64_t>(sizeof(Element));
  for (int64_t i = 0; i < update.num_rows; ++i) {
    const int64_t id = update.ids[i], place = i * bank.dim;
    if (i + kRowsAhead < update.num_rows) prefetch(bank, update.ids[i + kRowsAhead]);
    Checksum checksum(update.step);
    store_row<Element, kLoad, kStore>(bank.data, id, update.rows + place, bank, update, row);
    if (bank.checksums != nullptr) checksum.add_row(row.stored.data(), num_bytes);
    if (bank.documents != nullptr) {
      store_row<Element, kLoad, kStore>(bank.documents, id, update.document_rows + place, bank, update, row);
      if (bank.checksums != nullptr) checksum.add_row(row.stored.data(), num_bytes);
    }
    bank.last_update[id] = update.step;
    if (bank.checksums != nullptr) bank.checksums[id] = checksum.value();
  }
}

float identity(float value) { return value; }

void store_as_dtype(const BankTables& bank, const BankUpdate& update) {
  switch (bank.dtype) {
    case DType::kFloat32:
      return store<float, identity, identity>(bank, update);
    case DType::kBFloat16:
      return store<uint16_t, bfloat16_to_float, float_to_bfloat16>(bank, update);
    case DType::kFloat16:
      return store<uint16_t, float16_to_float, float_to_float16>(bank, update);
  }
}

}  // namespace

UpdateResult update_bank(const BankTables& bank, const BankUpdate& update) {
  const UpdateResult result = check(bank, update);
  if (result.error == UpdateError::kNone) store_as_dtype(bank, update);
  return result;
}

void row_checksums(const BankTables& bank, int64_t* out) {
  const int64_t num_bytes = bank.dim * (bank.dtype == DType::kFloat32 ? 4 : 2);
  for (int64_t id = 0; id < bank.num_instances; ++id) {
    Checksum checksum(bank.last_update[id]);
    checksum.add_row(static_cast<const char*>(bank.data) + id * num_bytes, num_bytes);
    if (bank.documents != nullptr) {
      checksum.add_row(static_cast<const char*>(bank.documents) + id * num_bytes, num_bytes);
    }
    out[id] = checksum.value();
  }
}

}  // namespace bse

// Compares the CUDA engine's bank updates with the CPU engine's: tables must be equal to the bit, and the same rows
// must be refused or skipped. It is compiled as walk_test.cpp.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "cpu/bank/bank_update.h"
#include "cuda/bank/bank_update.h"
#include "kernels/checks.h"
#include "kernels/device_array.h"

namespace {

using namespace bse;
using namespace bse::test;

constexpr int kNumRounds = test::kIsSmall ? 20 : 120;

int64_t num_compared = 0, num_refused = 0;

size_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Tables of one engine. Array: std::vector on the host, DeviceArray on the device.
template <template <class...> class Array>
struct Bank {
  Array<unsigned char> data, documents;
  Array<int64_t> last_update;

  explicit Bank(size_t num_bytes, int64_t num_instances)
      : data(num_bytes), documents(num_bytes), last_update(static_cast<size_t>(num_instances), -1) {}
};

std::vector<uint64_t> empty_error_log() {
  std::vector<uint64_t> words(cuda::kNumErrorLogWords, ~uint64_t{0});
  words[cuda::kNumSkippedWord] = 0;
  return words;
}

struct Batch {
  std::vector<int64_t> ids;
  std::vector<float> rows, documents;
};

// Prepares a batch as the CPU engine requires: without rows that are not finite if these are skipped, and with momentum
// without all but the last of equal ids.
Batch reduced(const Batch& batch, int64_t dim, bool skips, bool has_momentum) {
  const auto count = static_cast<int64_t>(batch.ids.size());
  std::vector<bool> is_kept(batch.ids.size());
  for (int64_t i = count - 1; i >= 0; --i) {
    bool is_finite = true;
    for (int64_t k = 0; k < dim; ++k) {
      is_finite &= std::isfinite(batch.rows[i * dim + k]) && std::isfinite(batch.documents[i * dim + k]);
    }
    is_kept[i] = is_finite || !skips;
    for (int64_t j = i + 1; has_momentum && j < count; ++j) {
      if (is_kept[j] && batch.ids[j] == batch.ids[i]) is_kept[i] = false;
    }
  }
  Batch result;
  for (int64_t i = 0; i < count; ++i) {
    if (!is_kept[i]) continue;
    result.ids.push_back(batch.ids[i]);
    result.rows.insert(result.rows.end(), &batch.rows[i * dim], &batch.rows[i * dim] + dim);
    result.documents.insert(result.documents.end(), &batch.documents[i * dim], &batch.documents[i * dim] + dim);
  }
  return result;
}

void compare_updates(std::mt19937& random) {
  const auto below = [&](uint32_t limit) { return static_cast<int64_t>(random() % limit); };
  const int64_t dims[] = {1, 7, 8, 9, 31, 32, 33, 130};
  const int64_t dim = dims[below(8)], num_instances = 1 + below(90);
  const auto dtype = static_cast<DType>(below(3));
  const bool normalize = below(2) == 0, skips = below(2) == 0, has_momentum = below(2) == 0;
  const float momentum = has_momentum ? 0.3f + 0.05f * static_cast<float>(below(10)) : 0.0f;
  const size_t num_bytes = num_instances * dim * bytes_of(dtype);
  Bank<std::vector> expected(num_bytes, num_instances);
  Bank<DeviceArray> got(num_bytes, num_instances);
  DeviceArray<uint64_t> claims(num_instances), error_log(empty_error_log());
  uint64_t num_skipped = 0;
  bool was_refused = false;
  for (int64_t step = 0; step < 4; ++step) {
    Batch batch;
    const int64_t num_rows = below(3) == 0 ? below(5) : below(70);
    std::normal_distribution<float> normal;
    const bool has_bad_rows = below(3) == 0, has_bad_id = below(8) == 0;
    for (int64_t i = 0; i < num_rows; ++i) batch.ids.push_back(below(static_cast<uint32_t>(num_instances)));
    if (has_bad_id && num_rows > 0)
      batch.ids[below(static_cast<uint32_t>(num_rows))] = below(2) == 0 ? -1 : num_instances;
    for (auto* values : {&batch.rows, &batch.documents}) {
      for (int64_t i = 0; i < num_rows; ++i) {
        const float scale = below(5) == 0 ? 0.0f : std::pow(10.0f, static_cast<float>(below(7)) - 3);
        for (int64_t k = 0; k < dim; ++k) values->push_back(normal(random) * scale);
        if (has_bad_rows && below(4) == 0) values->back() = below(2) == 0 ? NAN : INFINITY;
      }
    }

    const Batch kept = reduced(batch, dim, skips, has_momentum);
    const UpdateResult result = update_bank(
        {expected.data.data(), expected.documents.data(), dtype, num_instances, dim, expected.last_update.data()},
        {kept.ids.data(), kept.rows.data(), kept.documents.data(), static_cast<int64_t>(kept.ids.size()), step,
         momentum, normalize});
    bool is_refused = result.error != UpdateError::kNone;
    // The bad id may be in a row that the CPU engine did not get.
    for (const int64_t id : batch.ids) is_refused |= id < 0 || id >= num_instances;
    if (is_refused && result.error == UpdateError::kNone) return;  // the CPU engine has stored the other rows
    if (!is_refused) num_skipped += static_cast<uint64_t>(skips ? num_rows - static_cast<int64_t>(kept.ids.size()) : 0);

    const DeviceArray<int64_t> ids(batch.ids);
    const DeviceArray<float> rows(batch.rows), documents(batch.documents);
    DeviceArray<uint64_t> scratch(cuda::bank_scratch_bytes() / sizeof(uint64_t));
    cuda::BankUpdate update;
    update.ids = ids.data();
    update.rows = {rows.data(), DType::kFloat32, num_rows, dim, dim, false};
    update.document_rows = {documents.data(), DType::kFloat32, num_rows, dim, dim, false};
    update.num_rows = num_rows;
    update.step = step;
    update.update_number = static_cast<uint32_t>(step + 1);
    update.momentum = momentum;
    update.normalize = normalize;
    update.skips = skips;
    cuda::launch_bank_update(
        {got.data.data(), got.documents.data(), dtype, num_instances, dim, got.last_update.data(), claims.data()},
        update, error_log.data(), scratch.data(), nullptr);

    const std::string where =
        "step " + std::to_string(step) + ", dim " + std::to_string(dim) + ", " + std::to_string(num_rows) + " rows";
    const std::vector<uint64_t> logged = error_log.to_host();
    const std::string message = cuda::status_message(logged.data(), num_instances);
    was_refused |= is_refused;
    expect(message.empty() != was_refused, where + ": " + message);
    expect(expected.data == got.data.to_host(), where + ": data");
    expect(expected.documents == got.documents.to_host(), where + ": documents");
    expect(expected.last_update == got.last_update.to_host(), where + ": last_update");
    if (!has_momentum) expect(logged[cuda::kNumSkippedWord] == num_skipped, where + ": skipped");
    ++num_compared;
    num_refused += is_refused;
  }
}

}  // namespace

int main() {
  std::mt19937 random(7);
  for (int round = 0; round < kNumRounds; ++round) {
#if !defined(__CUDACC__)
    emulator::Config& config = emulator::config();
    config.seed = static_cast<uint64_t>(round);
    config.preemption = round % 2 == 0 ? 16 : 3;
    config.resident_blocks = 1 + static_cast<uint64_t>(round % 3);
    config.num_multiprocessors = round % 5 == 0 ? 1 : 4;
#endif
    compare_updates(random);
  }
  expect(num_refused > 0 && num_compared > 2 * num_refused, "updates are refused, and not refused");
  std::printf("bank: %lld updates compared, %lld of them refused: %s\n", static_cast<long long>(num_compared),
              static_cast<long long>(num_refused), num_failures == 0 ? "equal to the CPU engine" : "FAILED");
  return num_failures == 0 ? 0 : 1;
}

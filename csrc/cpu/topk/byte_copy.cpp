#include "cpu/topk/byte_copy.h"

#include <algorithm>
#include <cmath>

#include "common/prefilter_bound.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/dispatch.h"

namespace bse {

namespace {

constexpr int kBlock = 64;  // Elements at a time. The compiler vectorizes loops with this constant bound.

// Rounds to the nearest integer, for magnitudes up to 2^22.
inline float rounded(float value) { return value + 0x1.8p23f - 0x1.8p23f; }

// Writes norm * row[k] to out, 0 beyond dim, one block.
inline void read_block(const float* row, int64_t left, float norm, float* out) {
  if (left >= kBlock) {
    for (int j = 0; j < kBlock; ++j) out[j] = row[j] * norm;
  } else {
    for (int j = 0; j < kBlock; ++j) out[j] = j < left ? row[j] * norm : 0.0f;
  }
}

inline float larger(float a, float b) { return a < b ? b : a; }

// Returns combine(...combine(lanes[0], lanes[1])..., lanes[kBlock - 1]), in some order.
template <class Combine>
inline float folded(const float (&lanes)[kBlock], const Combine& combine) {
  float all[kBlock / 2];
  for (int j = 0; j < kBlock / 2; ++j) all[j] = combine(lanes[j], lanes[j + kBlock / 2]);
  for (int size = kBlock / 4; size > 0; size /= 2) {
    for (int j = 0; j < size; ++j) all[j] = combine(all[j], all[j + size]);
  }
  return all[0];
}

// The largest magnitude of all elements so far.
struct Largest {
  float of_place[kBlock] = {};

  void add(const float* block) {
    for (int j = 0; j < kBlock; ++j) of_place[j] = larger(of_place[j], std::fabs(block[j]));
  }
  float value() const { return folded(of_place, larger); }
};

// Writes the integers nearest to values, plus 128, in the order of KernelTable::gather_byte_dots.
inline void write_bytes(const float* values, uint8_t* bytes) {
  for (int j = 0; j < kBlock / 2; ++j) {
    bytes[2 * j] = static_cast<uint8_t>(static_cast<int>(values[j]) + 128);
    bytes[2 * j + 1] = static_cast<uint8_t>(static_cast<int>(values[j + kBlock / 2]) + 128);
  }
}

}  // namespace

ByteCopy::ByteCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team)
    : num_rows_(features.num_rows), dim_(features.dim), bytes_(bytes(features)) {
  constexpr int64_t kGrain = 256;
  prefer_huge_pages(bytes_.data(), bytes(features));
  // Calls visit(id, elements, norm, worker's index) for each row.
  const auto for_each_row = [&](const auto& visit) {
    team.for_ranges(count, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      std::vector<float> scratch(static_cast<size_t>(dim_));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t id = ids != nullptr ? ids[i] : i;
        visit(id, features.read(id, 0, dim_, scratch.data()), norms[i], static_cast<size_t>(worker.index()));
      }
    });
  };
  std::vector<Largest> largest(static_cast<size_t>(team.num_threads()));
  for_each_row([&](int64_t, const float* row, float norm, size_t thread) {
    float block[kBlock];
    for (int64_t k = 0; k < dim_; k += kBlock) {
      read_block(row + k, dim_ - k, norm, block);
      largest[thread].add(block);
    }
  });
  float limit = 0.0f;
  for (const Largest& of_thread : largest) limit = std::max(limit, of_thread.value());
  if (limit > 0.0f) step_ = limit / 127.0f;

  std::vector<Residuals> residuals(largest.size());
  const int64_t stride = row_bytes(dim_);
  for_each_row([&](int64_t id, const float* row, float norm, size_t thread) {
    uint8_t* high = bytes_.data() + id * stride;
    const Residuals of_row = copy_row(row, norm, high, high + num_rows_ * stride);
    residuals[thread].high = std::max(residuals[thread].high, of_row.high);
    residuals[thread].low = std::max(residuals[thread].low, of_row.low);
  });
  Residuals all;
  for (const Residuals& of_thread : residuals) {
    all.high = std::max(all.high, of_thread.high);
    all.low = std::max(all.low, of_thread.low);
  }
  high_residual_ = measured_residual(all.high);
  low_residual_ = measured_residual(all.low);
}

int64_t ByteCopy::wanted_bytes(const MatrixView& features, int64_t count, int64_t num_scores, int64_t budget_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30, kMinDimensions = 32, kMinProducts = 1 << 14;
  if (kernel_table().gather_byte_dots == nullptr || features.dim < kMinDimensions) return 0;
  if (2 * count < features.num_rows || num_scores * features.dim < kMinProducts * count) return 0;
  return bytes(features) <= std::min(kMaxBytes, budget_bytes / 2) ? bytes(features) : 0;
}

ByteCopy::Residuals ByteCopy::copy_row(const float* row, float norm, uint8_t* high, uint8_t* low) const {
  const float inverse = 1.0f / step_, low_step = step_ / 254.0f;
  float high_sums[kBlock] = {}, low_sums[kBlock] = {};
  for (int64_t k = 0; k < dim_; k += kBlock) {
    float elements[kBlock], highs[kBlock], lows[kBlock];
    read_block(row + k, dim_ - k, norm, elements);
    for (int j = 0; j < kBlock; ++j) {
      const float scaled = elements[j] * inverse;
      highs[j] = rounded(scaled);
      lows[j] = rounded((scaled - highs[j]) * 254.0f);
      const float high_error = elements[j] - step_ * highs[j], low_error = high_error - low_step * lows[j];
      high_sums[j] += high_error * high_error;
      low_sums[j] += low_error * low_error;
    }
    write_bytes(highs, high + k);
    write_bytes(lows, low + k);
  }
  const auto sum = [](float a, float b) { return a + b; };
  return {folded(high_sums, sum), folded(low_sums, sum)};
}

WordQuery::WordQuery(int64_t dim) : dim_(dim), elements_(ByteCopy::row_bytes(dim)), words_(ByteCopy::row_bytes(dim)) {}

void WordQuery::set(const float* row, float norm) {
  Largest largest;
  for (int64_t k = 0; k < dim_; k += kBlock) {
    read_block(row + k, dim_ - k, norm, elements_.data() + k);
    largest.add(elements_.data() + k);
  }
  const auto max_word = static_cast<float>(max_query_word(dim_));
  const float limit = largest.value(), inverse = limit > 0.0f ? max_word / limit : 0.0f;
  int32_t sum = 0;
  for (int64_t k = 0; k < dim_; k += kBlock) {
    const float* elements = elements_.data() + k;
    for (int j = 0; j < kBlock; ++j) {
      const auto word = static_cast<int32_t>(rounded(elements[j] * inverse));
      words_[k + j] = static_cast<int16_t>(word);
      sum += word;
    }
  }
  step_ = limit / max_word;
  offset_ = static_cast<int32_t>(static_cast<uint32_t>(sum) << 7);
  residual_ = query_word_residual(dim_, step_);
}

}  // namespace bse

#include "cpu/topk/byte_copy.h"

#include <algorithm>
#include <cmath>

#include "common/prefilter_bound.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/dispatch.h"

namespace bse {

namespace {

constexpr int kBlock = 64;  // elements at a time, with constant bounds: so the compiler vectorizes all loops below
constexpr int kLanes = 16;

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

// Largest magnitude of all elements so far, in lanes.
struct Largest {
  float lanes[kLanes] = {};

  void add(const float* block) {
    for (int j = 0; j < kBlock; j += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        const float magnitude = std::fabs(block[j + i]);
        lanes[i] = lanes[i] < magnitude ? magnitude : lanes[i];
      }
    }
  }
  float value() const { return *std::max_element(lanes, lanes + kLanes); }
};

}  // namespace

ByteCopy::ByteCopy(const MatrixView& features, const int64_t* ids, const float* norms, int64_t count, ThreadTeam& team)
    : num_rows_(features.num_rows), dim_(features.dim), bytes_(bytes(features)) {
  constexpr int64_t kGrain = 256;
  prefer_huge_pages(bytes_.data(), bytes(features));
  // Calls visit(id, elements, norm, worker's index) for each row.
  const auto for_each_row = [&](const auto& visit) {
    team.for_ranges(count, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      std::vector<float> scratch(static_cast<size_t>(dim_));
      for (int64_t i = begin; i < end && !worker.should_stop(); ++i) {
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

int64_t ByteCopy::wanted_bytes(const MatrixView& features, int64_t count, int64_t budget_bytes) {
  constexpr int64_t kMaxBytes = int64_t{1} << 30, kMinDimensions = 32;
  if (kernel_table().gather_byte_dots == nullptr || features.dim < kMinDimensions) return 0;
  if (2 * count < features.num_rows || bytes(features) > std::min(kMaxBytes, budget_bytes / 2)) return 0;
  return bytes(features);
}

ByteCopy::Residuals ByteCopy::copy_row(const float* row, float norm, uint8_t* high, uint8_t* low) const {
  const float inverse = 1.0f / step_;
  float high_sums[kLanes] = {}, low_sums[kLanes] = {};
  for (int64_t k = 0; k < dim_; k += kBlock) {
    float elements[kBlock], highs[kBlock], lows[kBlock], high_errors[kBlock], low_errors[kBlock];
    read_block(row + k, dim_ - k, norm, elements);
    for (int j = 0; j < kBlock; ++j) {
      const float scaled = elements[j] * inverse;
      highs[j] = rounded(scaled);
      lows[j] = rounded((scaled - highs[j]) * 254.0f);
      high_errors[j] = elements[j] - step_ * highs[j];
      low_errors[j] = high_errors[j] - step_ / 254.0f * lows[j];
    }
    for (int j = 0; j < kBlock; j += kLanes) {
      for (int i = 0; i < kLanes; ++i) high_sums[i] += high_errors[j + i] * high_errors[j + i];
      for (int i = 0; i < kLanes; ++i) low_sums[i] += low_errors[j + i] * low_errors[j + i];
    }
    for (int j = 0; j < kBlock / 2; ++j) {
      high[k + 2 * j] = static_cast<uint8_t>(static_cast<int>(highs[j]) + 128);
      high[k + 2 * j + 1] = static_cast<uint8_t>(static_cast<int>(highs[j + kBlock / 2]) + 128);
      low[k + 2 * j] = static_cast<uint8_t>(static_cast<int>(lows[j]) + 128);
      low[k + 2 * j + 1] = static_cast<uint8_t>(static_cast<int>(lows[j + kBlock / 2]) + 128);
    }
  }
  Residuals sums;
  for (const float lane : high_sums) sums.high += lane;
  for (const float lane : low_sums) sums.low += lane;
  return sums;
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

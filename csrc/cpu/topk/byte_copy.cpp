#include "cpu/topk/byte_copy.h"

#include <algorithm>
#include <cmath>

#include "common/prefilter_bound.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/simd/dispatch.h"
#include "cpu/topk/each_row.h"
#include "cpu/topk/prefilter.h"

namespace bse {

namespace {

// Elements at a time. The compiler vectorizes loops with this constant bound. measured_residual() counts on it.
constexpr int kBlock = 64;

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

// Combines all lanes into one value, in pairs.
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
  prefer_huge_pages(bytes_.data(), bytes(features));
  std::vector<Largest> largest(static_cast<size_t>(team.num_threads()));
  for_each_row(team, features, ids, count, [&](int64_t i, int64_t, const float* row, size_t thread) {
    float block[kBlock];
    for (int64_t k = 0; k < dim_; k += kBlock) {
      read_block(row + k, dim_ - k, norms[i], block);
      largest[thread].add(block);
    }
  });
  float limit = 0.0f;
  for (const Largest& of_thread : largest) limit = std::max(limit, of_thread.value());
  if (limit > 0.0f) step_ = limit / 127.0f;

  std::vector<Residuals> residuals(largest.size());
  const int64_t stride = row_bytes(dim_);
  for_each_row(team, features, ids, count, [&](int64_t i, int64_t id, const float* row, size_t thread) {
    uint8_t* high = bytes_.data() + id * stride;
    const Residuals of_row = copy_row(row, norms[i], high, high + num_rows_ * stride);
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

int64_t ByteCopy::wanted_bytes(const MatrixView& features, int64_t count, double num_scores, const Selection& selection,
                               int64_t budget_bytes) {
  constexpr int64_t kCacheBytes = 32 << 20;
  if (!can_have_copies(features.dim, selection) || kernel_table().gather_byte_dots == nullptr) return 0;
  if (2 * count < features.num_rows) return 0;
  const bool is_cached = features.num_rows * features.dim * features.element_bytes() <= kCacheBytes;
  const double min_products = is_cached ? 0x1p14 : 0x1p10;  // of elements, per copied row (measured)
  if (num_scores * static_cast<double>(features.dim) < min_products * static_cast<double>(count)) return 0;
  return allowed_copy_bytes(bytes(features), budget_bytes);
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

CopiedScores::CopiedScores(const MatrixView& queries, const ByteCopy& copy)
    : queries_(queries),
      copy_(copy),
      kernels_(kernel_table()),
      scratch_(queries.reads_in_place() ? 0 : copy.dim()),
      elements_(ByteCopy::row_bytes(copy.dim())),
      words_(ByteCopy::row_bytes(copy.dim())) {}

void CopiedScores::set_query(int64_t id, float norm) {
  const int64_t dim = copy_.dim();
  const float* row = queries_.read(id, 0, dim, scratch_.data());
  Largest largest;
  for (int64_t k = 0; k < dim; k += kBlock) {
    read_block(row + k, dim - k, norm, elements_.data() + k);
    largest.add(elements_.data() + k);
  }
  const auto max_word = static_cast<float>(max_query_word(dim));
  const float limit = largest.value(), inverse = limit > 0.0f ? max_word / limit : 0.0f;
  int32_t sum = 0;
  for (int64_t k = 0; k < dim; k += kBlock) {
    const float* elements = elements_.data() + k;
    for (int j = 0; j < kBlock; ++j) {
      const auto word = static_cast<int32_t>(rounded(elements[j] * inverse));
      words_[k + j] = static_cast<int16_t>(word);
      sum += word;
    }
  }
  step_ = limit / max_word;
  offset_ = static_cast<int32_t>(static_cast<uint32_t>(sum) << 7);
  residual_ = query_word_residual(dim, step_);
}

void CopiedScores::refine(const int64_t* ids, int64_t count, float* scores) const {
  constexpr int64_t kMaxAdded = 512;
  float added[kMaxAdded];
  for (int64_t first = 0; first < count; first += kMaxAdded) {
    const int64_t num_added = std::min(kMaxAdded, count - first);
    dots(copy_.low(), ids + first, num_added, added);
    for (int64_t c = 0; c < num_added; ++c) scores[first + c] += added[c];
  }
}

double CopiedScores::margin(const ByteCopy::Plane& plane) const {
  return 2.0 * byte_copy_error(copy_.dim(), residual_, plane.residual);
}

void CopiedScores::dots(const ByteCopy::Plane& plane, const int64_t* ids, int64_t count, float* out) const {
  kernels_.gather_byte_dots(words_.data(), plane.bytes, ByteCopy::row_bytes(copy_.dim()), ids, count, offset_,
                            step_ * plane.step, out);
}

}  // namespace bse

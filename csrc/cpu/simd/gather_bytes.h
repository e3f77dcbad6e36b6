// The kernel gather_byte_dots() as a template over the vector operations of an instruction set. As algorithms.h, it is
// included by the files of instruction sets only, and everything is in an anonymous namespace.
//
// Bytes, a struct of static members:
//   kBytes                                   bytes of a vector, at most 64
//   Vector, zero()                           vector of 32-bit integers; all lanes are 0
//   load(p)                                  kBytes bytes at p, which need not be aligned
//   add_products(sums, low, high, bytes)     sums plus the products of the words in `low` and the bytes at even places,
//                                            and of those in `high` and the bytes at odd places, each added to some
//                                            lane; words are int16, bytes are uint8
//   write_sums(sums, offset, scale, out)     out[i] = scale * float(sum of the lanes of sums[i] - offset) for i < 4
#pragma once

#include <cstdint>

namespace bse {
namespace {

// Implements KernelTable::gather_byte_dots. Takes kRows rows at a time, with lanes along the row, and prefetches the
// rows that come num_ahead later: up to kMaxAhead, but few enough to stay in L1 if rows have at most 4 KiB. With only
// four rows at a time, the addresses of all eight fit into registers.
template <class Bytes>
void gather_byte_dots(const int16_t* row, const uint8_t* base, int64_t row_bytes, const int64_t* ids, int64_t count,
                      int32_t offset, float scale, float* out) {
  constexpr int kRows = 4;
  constexpr int64_t kLine = 64, kMaxAhead = 32, kBytesAhead = 16384;
  const int64_t rows_in_l1 = kBytesAhead / row_bytes;
  const int64_t num_ahead = rows_in_l1 < kRows ? kRows : (rows_in_l1 > kMaxAhead ? kMaxAhead : rows_in_l1);
  const auto multiply = [=](const int64_t* own_ids, float* own_out) {
    const uint8_t *rows[kRows], *ahead[kRows];
    typename Bytes::Vector sums[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      rows[i] = base + own_ids[i] * row_bytes;
      ahead[i] = base + own_ids[num_ahead + i] * row_bytes;
      sums[i] = Bytes::zero();
    }
    for (int64_t k = 0; k < row_bytes; k += kLine) {
#pragma GCC unroll 4
      for (int64_t j = 0; j < kLine; j += Bytes::kBytes) {
        const auto low = Bytes::load(row + k + j / 2), high = Bytes::load(row + k + kLine / 2 + j / 2);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) sums[i] = Bytes::add_products(sums[i], low, high, Bytes::load(rows[i] + k + j));
      }
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) __builtin_prefetch(ahead[i] + k);
    }
    Bytes::write_sums(sums, offset, scale, own_out);
  };
  for (int64_t i = 0; i < num_ahead && i < count; ++i) {
    for (int64_t k = 0; k < row_bytes; k += kLine) __builtin_prefetch(base + ids[i] * row_bytes + k);
  }
  int64_t c = 0;
  for (; c + kRows + num_ahead <= count; c += kRows) multiply(ids + c, out + c);
  const int64_t num_left = count - c;  // fewer than num_ahead + kRows, and no others come after them
  int64_t left_ids[2 * (kMaxAhead + kRows)];
  for (int64_t i = 0; i < 2 * (num_ahead + kRows); ++i) left_ids[i] = ids[i < num_left ? c + i : count - 1];
  for (int64_t i = 0; i < num_left; i += kRows) {
    float left_out[kRows];
    multiply(left_ids + i, left_out);
    for (int64_t j = 0; j < kRows && i + j < num_left; ++j) out[c + i + j] = left_out[j];
  }
}

}  // namespace
}  // namespace bse

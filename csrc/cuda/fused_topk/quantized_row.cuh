// A row of quantized scores (quantized_score.cuh): layout in shared memory, and comparison with a threshold by a warp.
//
// A lane has one chunk of 32 adjacent columns in every 1024, so that a set of columns is one word per chunk
// (column_set.cuh). A chunk is 16 words in four quarters. Word m of quarter q holds two columns of the chunk:
// c = 16 (q / 2) + 4 (q % 2) + m in its low half, and c + 8 in its high half.
// Comparing word i (quarters 0 and 1) and word i + 8 (quarters 2 and 3) yields four flags, the high bits of four bytes:
//   byte      3        2        1        0
//   column    i + 24   i + 16   i + 8    i          i = 0 .. 7
// Eight comparisons, with a shift by one bit between them, fill the 32 bits of the chunk in column order.
// Quarters are permuted within a chunk, and a row has one quarter more than it needs. Both avoid bank conflicts, for
// lanes that load their chunks and for lanes that store mma results (eight rows, four words of a quarter).
#pragma once

#include "cuda/fused_topk/quantized_score.cuh"
#include "cuda/primitives/column_set.cuh"
#include "cuda/runtime/device.h"

namespace bse::cuda {

constexpr int kChunkColumns = 32;

struct alignas(16) QuantizedQuarter {
  uint32_t words[4];
};

BSE_HOST_DEVICE constexpr int num_chunks(int64_t num_columns) {
  return static_cast<int>((num_columns + kChunkColumns - 1) / kChunkColumns);
}
BSE_HOST_DEVICE constexpr int row_quarters(int num_chunks) { return 4 * num_chunks + 1; }
BSE_DEVICE int quarter_place(int chunk, int quarter) { return 4 * chunk + (quarter ^ (chunk / 2 % 4)); }

// Returns the column, within its chunk, of half `half` (0: low) of word m of a quarter.
BSE_DEVICE int column_in_chunk(int quarter, int m, int half) {
  return quarter / 2 * 16 + quarter % 2 * 4 + half * 8 + m;
}

// Excludes a column of a row: sets its score to 0.
BSE_DEVICE void forbid(QuantizedQuarter* row, uint32_t column) {
  const int chunk = static_cast<int>(column / kChunkColumns), b = static_cast<int>(column % kChunkColumns);
  uint32_t* const word = &row[quarter_place(chunk, b / 16 * 2 + b / 4 % 2)].words[b % 4];
  atomicAnd(word, b / 8 % 2 == 0 ? 0xFFFF8000u : 0x8000FFFFu);  // another thread may change the other half
}

template <int kParts>
class QuantizedRow {
 public:
  BSE_DEVICE QuantizedRow(const QuantizedQuarter* row, int num_chunks) {
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      const int chunk = 32 * p + static_cast<int>(threadIdx.x % 32);
      BSE_UNROLL
      for (int q = 0; q < 4; ++q) {
        QuantizedQuarter quarter{{kExcludedPair, kExcludedPair, kExcludedPair, kExcludedPair}};
        if (chunk < num_chunks) quarter = row[quarter_place(chunk, q)];
        BSE_UNROLL
        for (int m = 0; m < 4; ++m) words_[p][4 * q + m] = quarter.words[m];
      }
    }
  }

  // Returns the columns whose score is at least `score`, 0 < score <= kQuantizedEnd.
  BSE_DEVICE ColumnSet<kParts> at_least(uint32_t score) const {
    const uint32_t both = score << 16 | score;
    ColumnSet<kParts> result;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      uint32_t bits = 0;
      BSE_UNROLL
      for (int i = 0; i < 8; ++i) {
        const uint32_t flags = __byte_perm(words_[p][i] - both, words_[p][i + 8] - both, 0x7531);
        bits = bits >> 1 | (flags & 0x80808080u);
      }
      result.bits[p] = bits;
    }
    return result;
  }

 private:
  uint32_t words_[kParts][16];
};

}  // namespace bse::cuda

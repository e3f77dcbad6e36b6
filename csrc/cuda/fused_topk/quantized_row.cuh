// A row of quantized scores (quantized_score.cuh): layout in shared memory, and its bit planes in the lanes of a warp.
//
// A lane has one chunk of 32 adjacent columns in every 1024. A chunk is 16 words in four quarters. Word m of quarter q
// holds two columns of the chunk: c = 16 (q / 2) + 4 (q % 2) + m in its low half, and c + 8 in its high half.
//
// Bit plane b of a chunk is a word whose bit c is bit b of the score of column c. With planes, one logical operation
// treats 32 columns at once, and a set of columns is one word per chunk (column_set.cuh). They are made in two steps:
//   bytes   Words i and i + 8 give one word of the high bytes and one of the low bytes of their four scores:
//             byte      3        2        1        0
//             column    i + 24   i + 16   i + 8    i          i = 0 .. 7
//   bits    The eight words of the high bytes are four matrices of 8 x 8 bits side by side, and so are those of the low
//           bytes. Transposing these in place makes word i hold bit i of all scores. Three exchanges of bits do it,
//           between words that are 4, 2 and 1 apart. For 2 x 2 bits, from the highest bit to the lowest:
//             word 0:  b a      ->      c a
//             word 1:  d c      ->      d b
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
  atomicAnd(word, b / 8 % 2 == 0 ? 0xFFFF0000u : 0x0000FFFFu);  // another thread may change the other half
}

// Transposes four matrices of 8 x 8 bits, one in each byte.
BSE_DEVICE void transpose_bits(uint32_t (&words)[8]) {
  // By distance: the bits that stay in the first of two words.
  constexpr uint32_t kLow[] = {0, 0x55555555u, 0x33333333u, 0, 0x0F0F0F0Fu};
  BSE_UNROLL
  for (int distance = 4; distance > 0; distance /= 2) {
    BSE_UNROLL
    for (int i = 0; i < 8; ++i) {
      if ((i & distance) != 0) continue;
      const uint32_t low = kLow[distance], first = words[i], second = words[i + distance];
      words[i] = (first & low) | (second << distance & ~low);
      words[i + distance] = (first >> distance & low) | (second & ~low);
    }
  }
}

template <int kParts>
class QuantizedRow {
 public:
  BSE_DEVICE QuantizedRow(const QuantizedQuarter* row, int num_chunks) {
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      const int chunk = 32 * p + static_cast<int>(threadIdx.x % 32);
      uint32_t words[16] = {};  // a chunk that does not exist is excluded
      if (chunk < num_chunks) {
        BSE_UNROLL
        for (int q = 0; q < 4; ++q) {
          const QuantizedQuarter quarter = row[quarter_place(chunk, q)];
          BSE_UNROLL
          for (int m = 0; m < 4; ++m) words[4 * q + m] = quarter.words[m];
        }
      }
      uint32_t low[8], high[8];
      BSE_UNROLL
      for (int i = 0; i < 8; ++i) {
        low[i] = __byte_perm(words[i], words[i + 8], 0x6420);
        high[i] = __byte_perm(words[i], words[i + 8], 0x7531);
      }
      transpose_bits(low);
      transpose_bits(high);
      BSE_UNROLL
      for (int b = 0; b < kQuantizedBits; ++b) planes_[p][b] = b < 8 ? low[b] : high[b - 8];
    }
  }

  // Returns the columns of `among` whose score has bit b.
  BSE_DEVICE ColumnSet<kParts> with_bit(const ColumnSet<kParts>& among, int b) const {
    ColumnSet<kParts> result;
    BSE_UNROLL
    for (int p = 0; p < kParts; ++p) result.bits[p] = among.bits[p] & planes_[p][b];
    return result;
  }

  // Returns the columns whose score is at least `score`, which has kQuantizedBits bits.
  BSE_DEVICE ColumnSet<kParts> at_least(uint32_t score) const {
    // Looks at ever more bits, the lowest first: where a bit differs, it decides; else the bits below it did.
    ColumnSet<kParts> result = ColumnSet<kParts>::all();
    BSE_UNROLL
    for (int b = 0; b < kQuantizedBits; ++b) {
      const uint32_t bit = 0u - (score >> b & 1u);  // bit b of the score, 32 times
      BSE_UNROLL
      for (int p = 0; p < kParts; ++p) {
        const uint32_t plane = planes_[p][b], former = result.bits[p];
        result.bits[p] = (plane & former) | ((plane | former) & ~bit);
      }
    }
    return result;
  }

 private:
  uint32_t planes_[kParts][kQuantizedBits];
};

}  // namespace bse::cuda

// Candidate lists of bfloat16 rows by tensor cores (csrc/common/prefilter_bound.h).
//
// A thread block has a tile of 128 rows and meets tiles of 128 columns, each of its four warps with 64 x 64 pairs, as
// mma tiles of 16 x 8: the larger a warp's share, the less it reads of shared memory for a product. Rows come by
// cp.async in panels of 128 x kDepth elements, kStages of them in flight through the whole stream of tiles; the panels
// of its own rows stay in shared memory, if they fit. Zeros beyond the last element. O(rows columns D).
//
// Candidates that may not be linked are dropped when a list is cut. Where labels or max_score may forbid many of the
// best, that would be often: kIsRestricted looks at these two before a score is appended, at two instructions more for
// every score.
#pragma once

#include "cuda/matrix_topk/score_tile.cuh"
#include "cuda/primitives/mma_tile.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"
#include "cuda/streaming_topk/list_rows.cuh"
#include "cuda/streaming_topk/narrow_labels.h"

namespace bse::cuda {

struct ListScreenTile {
  static constexpr int kSize = CandidateLists::kTile, kThreads = 128;
  static constexpr int kDepth = 32, kStages = 4;
  static constexpr int kWarpSize = 64;           // rows and columns of a warp
  static constexpr int kPieces = kDepth / 8;     // of 16 bytes, of a row of a panel
  static constexpr int kPanel = kSize * kDepth;  // elements
  static size_t shared_bytes(int64_t num_query_panels) {
    return device::shared_bytes<uint16_t>(num_query_panels * kPanel) +
           device::shared_bytes<uint16_t>(kStages * kPanel) + 2 * device::shared_bytes<float>(kStages * kSize);
  }

  // Of an element, the first of a piece. Pieces of eight rows in turn fall into different banks.
  BSE_DEVICE static int place(int row, int piece) { return row * kDepth + (piece ^ row / 2 % kPieces) * 8; }

  // Starts to bring elements [k0, k0 + kDepth) of rows id_of(0), ..., id_of(count - 1) into a panel.
  template <class IdOf>
  BSE_DEVICE static void fetch_panel(const DeviceMatrix& matrix, int count, const IdOf& id_of, int64_t k0,
                                     uint16_t* panel) {
    const auto* elements = static_cast<const uint16_t*>(matrix.data);
    BSE_UNROLL
    for (int p = 0; p < kSize * kPieces / kThreads; ++p) {
      const int i = p * (kThreads / kPieces) + threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
      const int64_t k = k0 + piece * 8;
      const bool is_inside = i < count && k < matrix.dim;
      const uint16_t* source = is_inside ? elements + id_of(i) * matrix.row_stride_elements + k : elements;
      ptx::cp_async16(panel + place(i, piece), source, is_inside ? 16 : 0);
    }
  }

  // Starts to bring what each of `count` columns has of a word.      words: of the first; both ends aligned to 16 bytes
  template <class T>
  BSE_DEVICE static void fetch_words(const T* words, int count, T* destination) {
    static_assert(sizeof(T) == 4, "words");
    if (threadIdx.x >= kSize / 4) return;
    const int first = 4 * threadIdx.x, left = count - first;
    const int num_bytes = left <= 0 ? 0 : left < 4 ? 4 * left : 16;
    ptx::cp_async16(destination + first, num_bytes > 0 ? words + first : words, num_bytes);
  }
};

// What the rows of a tile may not be linked to; in shared memory.
struct ListRowConditions {
  float ceilings[CandidateLists::kTile];  // of a dot product * base term: what is above it scores above max_score
  int32_t labels[CandidateLists::kTile];

  BSE_DEVICE void load(const ScoreBlock& block, const CandidateLists& lists, const NarrowLabels& narrow,
                       const ListRange& range) {
    const Selection& selection = block.selection;
    for (int i = threadIdx.x; i < range.num_rows; i += blockDim.x) {
      const int64_t row = block.query_row(block.first_row + range.row_begin + i);
      const float term = block.query_terms[row];
      labels[i] = narrow.of_query(selection.labels != nullptr ? selection.labels[block.query_id(row)] : -1);
      ceilings[i] = __uint_as_float(0x7F800000u);
      // 2^-20: as with gates (list_rows.cuh)
      if (selection.has_max_score && term != 0.0f) ceilings[i] = (selection.max_score + lists.band + 0x1p-20f) / term;
    }
    __syncthreads();
  }
};

// num_query_panels: all that the rows have, or kStages
template <bool kIsRestricted>
__global__ void __launch_bounds__(ListScreenTile::kThreads, tuning::kListBlocksPerMultiprocessor)
    list_screen_kernel(ScoreBlock block, CandidateLists lists, NarrowLabels labels, int num_query_panels) {
  using Tile = ListScreenTile;
  BSE_SHARED(ListRowState, state);
  BSE_SHARED(ListRowConditions, conditions);
  device::SharedMemory shared;
  uint16_t* query_panels = shared.take<uint16_t>(num_query_panels * Tile::kPanel);
  uint16_t* base_panels = shared.take<uint16_t>(Tile::kStages * Tile::kPanel);
  constexpr int kNumWords = Tile::kStages * Tile::kSize;  // a tile can be as far ahead as panels are
  float* base_terms = shared.take<float>(kNumWords);
  int32_t* base_labels = shared.take<int32_t>(kNumWords);
  if (!is_screened(block)) return;  // the whole block
  const ListRange range(block, lists);
  if constexpr (kIsRestricted) conditions.load(block, lists, labels, range);
  ListRows<true> rows(block, lists, range, state);

  const int num_pieces = static_cast<int>((block.queries.dim + Tile::kDepth - 1) / Tile::kDepth);
  const bool has_labels = kIsRestricted && labels.of_base != nullptr;
  const bool holds_queries = num_pieces <= num_query_panels;
  int64_t next_column = range.column_begin;
  int next_piece = 0, next_stage = 0, next_words = 0;
  const auto fetch = [&] {
    if (next_column < range.column_end) {
      const int64_t left = range.column_end - next_column, k0 = int64_t{next_piece} * Tile::kDepth;
      const int num_columns = static_cast<int>(left < Tile::kSize ? left : Tile::kSize);
      const auto base_id = [&](int i) { return block.base_id(next_column + i); };
      Tile::fetch_panel(block.base, num_columns, base_id, k0, base_panels + next_stage * Tile::kPanel);
      if (!holds_queries || next_column == range.column_begin) {
        Tile::fetch_panel(
            block.queries, range.num_rows, [&](int i) { return state.query_ids[i]; }, k0,
            query_panels + (holds_queries ? next_piece : next_stage) * Tile::kPanel);
      }
      if (next_piece == 0) {
        Tile::fetch_words(block.base_terms + next_column, num_columns, base_terms + next_words);
        if (has_labels) Tile::fetch_words(labels.of_base + next_column, num_columns, base_labels + next_words);
      }
      if (++next_piece == num_pieces) {
        next_piece = 0;
        next_column += Tile::kSize;
        next_words = (next_words + Tile::kSize) % kNumWords;
      }
    }
    ptx::cp_async_commit();  // an empty group keeps the count
    next_stage = (next_stage + 1) % Tile::kStages;
  };
  for (int s = 0; s < Tile::kStages - 1; ++s) fetch();
  const auto advance = [&] {
    ptx::cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the next panels have landed for all, and all have done with those before
    fetch();
  };

  constexpr int kRowTiles = Tile::kWarpSize / 16, kColumnTiles = Tile::kWarpSize / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 2 * Tile::kWarpSize, warp_column = warp % 2 * Tile::kWarpSize;
  // Where this lane points ldmatrix: rows of A in two halves, then columns; B's columns, two tiles at a time.
  const int a_row = warp_row + lane / 8 % 2 * 8 + lane % 8, a_piece = lane / 16;
  const int b_row = warp_column + lane / 16 * 8 + lane % 8, b_piece = lane / 8 % 2;
  int stage = 0, words = 0;
  for (int64_t column = range.column_begin; column < range.column_end; column += Tile::kSize) {
    advance();
    rows.cut_full();
    float acc[kRowTiles][kColumnTiles][4] = {};
    for (int piece = 0;;) {
      const uint16_t* queries = query_panels + (holds_queries ? piece : stage) * Tile::kPanel;
      const uint16_t* base = base_panels + stage * Tile::kPanel;
      BSE_UNROLL
      for (int k = 0; k < Tile::kPieces; k += 2) {
        add_tile_products(
            acc, [&](int i) { return queries + Tile::place(a_row, k + a_piece) + 16 * i * Tile::kDepth; },
            [&](int j) { return base + Tile::place(b_row, k + b_piece) + 8 * j * Tile::kDepth; });
      }
      stage = (stage + 1) % Tile::kStages;
      if (++piece == num_pieces) break;
      advance();
    }

    // Of each mma tile a lane has two rows, eight apart, and two columns side by side.
    constexpr int kRows = 2 * kRowTiles, kColumns = 2 * kColumnTiles;
    const int first_column = warp_column + lane % 4 * 2;
    float column_terms[kColumns];
    int32_t column_labels[kColumns];
    BSE_UNROLL
    for (int j = 0; j < kColumns; j += 2) {
      const int place = words + first_column + 4 * j;
      const float2 both_terms = *reinterpret_cast<const float2*>(base_terms + place);
      column_terms[j] = both_terms.x;
      column_terms[j + 1] = both_terms.y;
      int2 both_labels{NarrowLabels::kUnknown, NarrowLabels::kUnknown};
      if (has_labels) both_labels = *reinterpret_cast<const int2*>(base_labels + place);
      column_labels[j] = both_labels.x;
      column_labels[j + 1] = both_labels.y;
    }
    words = (words + Tile::kSize) % kNumWords;
    BSE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const int row = warp_row + 8 * i + lane / 4;
      const float gate = state.gates[row];
      const auto dot = [&](int j) { return acc[i / 2][j / 2][i % 2 * 2 + j % 2]; };
      const float ceiling = kIsRestricted ? conditions.ceilings[row] : 0.0f;
      const int32_t label = kIsRestricted ? conditions.labels[row] : 0;
      const auto passes = [&](int j) {
        const float gated = dot(j) * column_terms[j];
        return gated >= gate && (!kIsRestricted || (gated <= ceiling && label != column_labels[j]));
      };
      constexpr int kAtOnce = kColumns / 2;  // few pass: whether any does comes first
      BSE_UNROLL
      for (int first = 0; first < kColumns; first += kAtOnce) {
        bool any_passes = false;
        BSE_UNROLL
        for (int j = first; j < first + kAtOnce; ++j) any_passes |= passes(j);
        if (!any_passes) continue;
        BSE_UNROLL
        for (int j = first; j < first + kAtOnce; ++j) {
          if (!passes(j)) continue;
          const float score = finish_score(Metric::kCosine, dot(j), state.terms[row], column_terms[j]);
          rows.append(row, static_cast<uint32_t>(column) + first_column + j / 2 * 8 + j % 2, score);
        }
      }
    }
  }
  ptx::cp_async_wait<0>();
  rows.finish();
}

}  // namespace bse::cuda

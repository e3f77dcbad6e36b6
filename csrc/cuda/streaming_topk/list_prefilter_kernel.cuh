// Candidate lists by approximate scores of bfloat16 rows, with tensor cores (csrc/common/prefilter_bound.h).
//
// A thread block multiplies a tile of 128 rows with tiles of 128 columns, as mma tiles of 16 x 8. Each of its four
// warps has 64 x 64 pairs: the larger this share, the less shared memory is read per product. Rows come by cp.async in
// slices of kDepth elements of each, with zeros beyond the last element. A panel holds one slice of 128 rows. kStages
// panels are in flight across the whole stream of tiles. The panels of the block's own rows stay in shared memory if
// they fit. O(rows columns D).
//
// Cuts of a list drop the candidates that may not become edges. If labels or max_score exclude many of the best, lists
// would fill up with these and be cut often. Therefore kIsRestricted tests both before a score is appended, with two
// more instructions per score.
#pragma once

#include "cuda/primitives/mma_tile.cuh"
#include "cuda/primitives/panel_layout.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"
#include "cuda/streaming_topk/list_rows.cuh"
#include "cuda/streaming_topk/narrow_labels.h"
#include "cuda/types/score_block.h"

namespace bse::cuda {

struct ListPrefilterTile {
  static constexpr int kSize = CandidateLists::kTile, kThreads = 128;
  static constexpr int kDepth = 32, kStages = 4;
  static constexpr int kWarpSize = 64;           // rows and columns of a warp
  static constexpr int kPanel = kSize * kDepth;  // elements
  static size_t shared_bytes(int64_t num_query_panels) {
    return device::shared_bytes<uint16_t>(num_query_panels * kPanel) +
           device::shared_bytes<uint16_t>(kStages * kPanel) + 2 * device::shared_bytes<float>(kStages * kSize);
  }

  // fetch_panel() with the sizes of a tile.
  template <class IdOf>
  BSE_DEVICE static void fetch(const DeviceMatrix& matrix, int count, const IdOf& id_of, int64_t k0, uint16_t* panel) {
    fetch_panel<kSize, kThreads, kDepth>(matrix, count, id_of, k0, panel);
  }

  // Starts copying one word for each of `count` columns, zeros beyond.      words: of the first column; source and
  // destination are aligned to 16 bytes
  template <class T>
  BSE_DEVICE static void fetch_words(const T* words, int count, T* destination) {
    static_assert(sizeof(T) == 4, "words");
    if (threadIdx.x >= kSize / 4) return;
    const int first = 4 * threadIdx.x, left = count - first;
    const int num_bytes = left <= 0 ? 0 : left < 4 ? 4 * left : 16;
    ptx::cp_async16(destination + first, num_bytes > 0 ? words + first : words, num_bytes);
  }
};

// Conditions on the edges of a tile's rows, in shared memory.
struct ListRowConditions {
  float ceilings[CandidateLists::kTile];  // if dot product * base norm is above it, the score is above max_score
  int32_t labels[CandidateLists::kTile];

  BSE_DEVICE void load(const ScoreBlock& block, const CandidateLists& lists, const NarrowLabels& narrow,
                       const ListRange& range) {
    const Selection& selection = block.selection;
    for (int i = threadIdx.x; i < range.num_rows; i += blockDim.x) {
      const int64_t row = block.query_row(block.first_row + range.row_begin + i);
      const float norm = block.query_norms[row];
      labels[i] = narrow.of_query(selection.labels != nullptr ? selection.labels[block.query_id(row)] : -1);
      ceilings[i] = __uint_as_float(0x7F800000u);
      // 2^-20 covers rounding, as in ListRows::gate().
      if (selection.has_max_score && norm != 0.0f) ceilings[i] = (selection.max_score + lists.margin + 0x1p-20f) / norm;
    }
    __syncthreads();
  }
};

// Dynamic shared memory of a block.
struct ListPanelMemory {
  using Tile = ListPrefilterTile;
  static constexpr int kNumWords = Tile::kStages * Tile::kSize;  // with one panel per tile, kStages tiles are in flight
  uint16_t *query_panels, *base_panels;
  float* base_norms;
  int32_t* base_labels;

  BSE_DEVICE explicit ListPanelMemory(int num_query_panels) {
    device::SharedMemory shared;
    query_panels = shared.take<uint16_t>(num_query_panels * Tile::kPanel);
    base_panels = shared.take<uint16_t>(Tile::kStages * Tile::kPanel);
    base_norms = shared.take<float>(kNumWords);
    base_labels = shared.take<int32_t>(kNumWords);
  }
};

// The stream of panels through shared memory: kStages are in flight, in the order of their multiplication.
class ListPanels {
 public:
  using Tile = ListPrefilterTile;
  static constexpr int kRowTiles = Tile::kWarpSize / 16, kColumnTiles = Tile::kWarpSize / 8;

  // column_labels: of all columns, or null if there are none
  BSE_DEVICE ListPanels(const ScoreBlock& block, const ListRange& range, const ListRowState& state,
                        const int32_t* column_labels, int num_query_panels, const ListPanelMemory& memory)
      : block_(block),
        range_(range),
        state_(state),
        column_labels_(column_labels),
        memory_(memory),
        num_slices_(static_cast<int>((block.queries.dim + Tile::kDepth - 1) / Tile::kDepth)),
        holds_queries_(num_slices_ <= num_query_panels),
        next_column_(range.column_begin) {
    for (int s = 0; s < Tile::kStages - 1; ++s) fetch();
  }

  // Waits for the next panels. Called by all threads of the block.
  BSE_DEVICE void advance() {
    ptx::cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the next panels have landed for all threads, and no thread needs the last ones
    fetch();
  }

  // Adds the products of a warp's rows with its columns of a tile. The tile's first panels must have landed.
  BSE_DEVICE void multiply(int warp_row, int warp_column, float (&acc)[kRowTiles][kColumnTiles][4]) {
    const SliceProducts<Tile::kDepth> products(warp_row, warp_column);
    for (int slice = 0;;) {
      const uint16_t* queries = memory_.query_panels + (holds_queries_ ? slice : stage_) * Tile::kPanel;
      products.add(queries, memory_.base_panels + stage_ * Tile::kPanel, acc);
      stage_ = (stage_ + 1) % Tile::kStages;
      if (++slice == num_slices_) break;
      advance();
    }
  }

 private:
  // Starts copying the next panels. Past the last column it copies nothing.
  BSE_DEVICE void fetch() {
    if (next_column_ < range_.column_end) {
      const int64_t left = range_.column_end - next_column_, k0 = int64_t{next_slice_} * Tile::kDepth;
      const int num_columns = static_cast<int>(left < Tile::kSize ? left : Tile::kSize);
      const auto base_id = [&](int i) { return block_.base_id(next_column_ + i); };
      Tile::fetch(block_.base, num_columns, base_id, k0, memory_.base_panels + next_stage_ * Tile::kPanel);
      if (!holds_queries_ || next_column_ == range_.column_begin) {
        Tile::fetch(
            block_.queries, range_.num_rows, [&](int i) { return state_.query_ids[i]; }, k0,
            memory_.query_panels + (holds_queries_ ? next_slice_ : next_stage_) * Tile::kPanel);
      }
      if (next_slice_ == 0) {
        Tile::fetch_words(block_.base_norms + next_column_, num_columns, memory_.base_norms + next_words_);
        if (column_labels_ != nullptr) {
          Tile::fetch_words(column_labels_ + next_column_, num_columns, memory_.base_labels + next_words_);
        }
      }
      if (++next_slice_ == num_slices_) {
        next_slice_ = 0;
        next_column_ += Tile::kSize;
        next_words_ = (next_words_ + Tile::kSize) % ListPanelMemory::kNumWords;
      }
    }
    ptx::cp_async_commit();  // an empty group too, because the wait counts groups
    next_stage_ = (next_stage_ + 1) % Tile::kStages;
  }

  const ScoreBlock& block_;
  const ListRange& range_;
  const ListRowState& state_;
  const int32_t* const column_labels_;
  const ListPanelMemory& memory_;
  const int num_slices_;
  const bool holds_queries_;  // all panels of the rows stay in shared memory
  int64_t next_column_;
  int next_slice_ = 0, next_stage_ = 0, next_words_ = 0;  // of the next fetch
  int stage_ = 0;                                         // of the next multiplication
};

// Norms and labels of a lane's columns: two adjacent columns in each mma tile.
struct ListLaneColumns {
  static constexpr int kCount = 2 * ListPanels::kColumnTiles;
  float norms[kCount];
  int32_t labels[kCount];

  // place: of the lane's first column among the words in shared memory
  BSE_DEVICE ListLaneColumns(const ListPanelMemory& memory, int place, bool has_labels) {
    BSE_UNROLL
    for (int j = 0; j < kCount; j += 2) {
      const float2 both_norms = *reinterpret_cast<const float2*>(memory.base_norms + place + 4 * j);
      norms[j] = both_norms.x;
      norms[j + 1] = both_norms.y;
      int2 both_labels{NarrowLabels::kUnknown, NarrowLabels::kUnknown};
      if (has_labels) both_labels = *reinterpret_cast<const int2*>(memory.base_labels + place + 4 * j);
      labels[j] = both_labels.x;
      labels[j + 1] = both_labels.y;
    }
  }
};

// Appends a lane's pairs that pass the gate of their row. In each mma tile a lane holds two rows, eight apart.
template <bool kIsRestricted>
BSE_DEVICE void append_passing(const ListRowState& state, const ListRowConditions& conditions, int warp_row,
                               uint32_t first_column, const ListLaneColumns& columns,
                               const float (&acc)[ListPanels::kRowTiles][ListPanels::kColumnTiles][4],
                               ListRows<true>& rows) {
  constexpr int kColumns = ListLaneColumns::kCount;
  BSE_UNROLL
  for (int i = 0; i < 2 * ListPanels::kRowTiles; ++i) {
    const int row = warp_row + 8 * i + threadIdx.x % 32 / 4;
    const float gate = state.gates[row];
    const auto dot = [&](int j) { return acc[i / 2][j / 2][i % 2 * 2 + j % 2]; };
    const float ceiling = kIsRestricted ? conditions.ceilings[row] : 0.0f;
    const int32_t label = kIsRestricted ? conditions.labels[row] : 0;
    const auto passes = [&](int j) {
      const float gated = dot(j) * columns.norms[j];
      return gated >= gate && (!kIsRestricted || (gated <= ceiling && label != columns.labels[j]));
    };
    constexpr int kAtOnce = kColumns / 2;  // few pass, so test first if any does
    BSE_UNROLL
    for (int first = 0; first < kColumns; first += kAtOnce) {
      bool any_passes = false;
      BSE_UNROLL
      for (int j = first; j < first + kAtOnce; ++j) any_passes |= passes(j);
      if (!any_passes) continue;
      BSE_UNROLL
      for (int j = first; j < first + kAtOnce; ++j) {
        if (!passes(j)) continue;
        const float score = finish_score(Metric::kCosine, dot(j), state.norms[row], columns.norms[j]);
        rows.append(row, first_column + j / 2 * 8 + j % 2, score);
      }
    }
  }
}

// num_query_panels: all panels of the rows, or kStages
template <bool kIsRestricted>
__global__ void __launch_bounds__(ListPrefilterTile::kThreads, tuning::kListBlocksPerMultiprocessor)
    list_prefilter_kernel(ScoreBlock block, CandidateLists lists, NarrowLabels labels, int num_query_panels) {
  using Tile = ListPrefilterTile;
  BSE_SHARED(ListRowState, state);
  BSE_SHARED(ListRowConditions, conditions);
  const ListPanelMemory memory(num_query_panels);
  if (!is_prefiltered(block)) return;  // the whole block returns
  const ListRange range(block, lists);
  if constexpr (kIsRestricted) conditions.load(block, lists, labels, range);
  ListRows<true> rows(block, lists, range, state);

  const int32_t* const column_labels = kIsRestricted ? labels.of_base : nullptr;
  ListPanels panels(block, range, state, column_labels, num_query_panels, memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 2 * Tile::kWarpSize, warp_column = warp % 2 * Tile::kWarpSize;
  const int lane_column = warp_column + lane % 4 * 2;  // first column of this lane in a tile
  int words = 0;
  for (int64_t column = range.column_begin; column < range.column_end; column += Tile::kSize) {
    panels.advance();
    rows.cut_full();
    float acc[ListPanels::kRowTiles][ListPanels::kColumnTiles][4] = {};
    panels.multiply(warp_row, warp_column, acc);
    const ListLaneColumns columns(memory, words + lane_column, column_labels != nullptr);
    words = (words + Tile::kSize) % ListPanelMemory::kNumWords;
    append_passing<kIsRestricted>(state, conditions, warp_row, static_cast<uint32_t>(column) + lane_column, columns,
                                  acc, rows);
  }
  ptx::cp_async_wait<0>();
  rows.finish();
}

}  // namespace bse::cuda

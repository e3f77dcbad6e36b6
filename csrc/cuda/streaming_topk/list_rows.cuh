// The rows of a thread block that fills candidate lists: their lists, and the limits that scores are compared with.
#pragma once

#include "cuda/streaming_topk/list_cut.cuh"
#include "cuda/types/tuning.h"

namespace bse::cuda {

// Tile of rows and split of the columns of a thread block. Concurrent blocks have neighboring row tiles of the same
// split, so they read the same base rows at about the same time. grid: (row tiles x splits)
struct ListRange {
  int64_t row_begin, column_begin, column_end;
  int num_rows;
  uint32_t split;

  BSE_DEVICE ListRange(const ScoreBlock& block, const CandidateLists& lists) {
    constexpr int kTile = CandidateLists::kTile;
    const auto num_row_tiles = static_cast<unsigned>((block.num_rows + kTile - 1) / kTile);
    split = blockIdx.x / num_row_tiles;
    row_begin = int64_t{blockIdx.x % num_row_tiles} * kTile;
    num_rows = static_cast<int>(block.num_rows - row_begin < kTile ? block.num_rows - row_begin : kTile);
    column_begin = split * lists.columns_per_split;
    column_end = column_begin + lists.columns_per_split;
    if (column_end > block.num_candidates) column_end = block.num_candidates;
  }
};

// State of the rows, in shared memory.
struct ListRowState {
  static constexpr int kRows = CandidateLists::kTile;
  int64_t query_ids[kRows];
  float norms[kRows];
  float limits[kRows];  // lower scores are not appended
  float gates[kRows];   // the limits, in terms of the value that a kernel compares
  uint32_t counts[kRows], num_cut[kRows];
  uint32_t is_full[2];  // whether a list exceeds most(), after tiles of even and of odd number
};

// kIsPrefiltered: gates apply to dot product * base norm, which takes one multiplication less than a score.
template <bool kIsPrefiltered>
class ListRows {
 public:
  // Begins with empty lists; ends with a barrier.
  BSE_DEVICE ListRows(const ScoreBlock& block, const CandidateLists& lists, const ListRange& range, ListRowState& state)
      : block_(block),
        lists_(lists),
        range_(range),
        state_(state),
        column_end_(static_cast<uint32_t>(range.column_end)),
        row_stride_(lists.num_splits * lists.capacity),
        entries_(lists.entries + (range.row_begin * lists.num_splits + range.split) * lists.capacity) {
    for (int i = threadIdx.x; i < ListRowState::kRows; i += blockDim.x) {
      const bool is_row = i < range.num_rows;
      const int64_t row = is_row ? block.query_row(block.first_row + range.row_begin + i) : 0;
      state.query_ids[i] = is_row ? block.query_id(row) : 0;
      state.norms[i] = is_row ? block.query_norms[row] : 0.0f;
      state.limits[i] = minus_infinity();
      state.gates[i] = is_row ? minus_infinity() : unreachable();
      state.counts[i] = state.num_cut[i] = 0;
    }
    if (threadIdx.x < 2) state.is_full[threadIdx.x] = 0;
    __syncthreads();
  }

  // Appends a score that has passed the gate, unless the column is beyond the last one.
  BSE_DEVICE void append(int row, uint32_t column, float score) {
    if (column >= column_end_) return;
    const uint32_t place = atomicAdd(&state_.counts[row], 1u);
    if (place == lists_.most()) atomicExch(&state_.is_full[parity_], 1u);
    entries_[static_cast<uint32_t>(row) * row_stride_ + place] = candidate_rank(score, column);
  }

  // Cuts full lists. Called by all threads once per tile, with a barrier since the last append and before the next.
  BSE_DEVICE void cut_full() {
    const bool is_full = state_.is_full[parity_] != 0;
    parity_ ^= 1;  // the old flag is not set again before another barrier
    if (!is_full) return;
    const int warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
    for (int row = warp; row < range_.num_rows; row += num_warps) {
      // Also cuts lists that are getting long, so that each does not cause a stop of its own.
      if (state_.counts[row] > lists_.room()) cut(row);
    }
    __syncthreads();
    if (threadIdx.x == 0) state_.is_full[parity_ ^ 1] = 0;
  }

  // Writes the lengths of the lists for list_edges_kernel.
  BSE_DEVICE void finish() {
    __syncthreads();
    for (int i = threadIdx.x; i < range_.num_rows; i += blockDim.x) {
      lists_.counts[(range_.row_begin + i) * lists_.num_splits + range_.split] = state_.counts[i];
    }
  }

 private:
  BSE_DEVICE static float minus_infinity() { return __uint_as_float(0xFF800000u); }
  BSE_DEVICE static float unreachable() { return __uint_as_float(0x7FC00000u); }  // no score is >= NaN

  BSE_DEVICE void cut(int row) {
    ListState list{state_.counts[row], state_.num_cut[row], state_.limits[row]};
    const ListedQuery query(block_, range_.row_begin + row, kIsPrefiltered);
    cut_list(query, lists_, entries_ + static_cast<uint32_t>(row) * row_stride_, list);
    __syncwarp();  // all lanes have read the state
    if (threadIdx.x % 32 != 0) return;
    state_.counts[row] = list.count;
    state_.num_cut[row] = list.num_cut;
    state_.limits[row] = list.limit;
    state_.gates[row] = gate(list.limit, query.norm);
  }

  // If kIsPrefiltered, dot * base norm is compared instead of the score dot * (norm * base norm). 2^-20 covers the
  // rounding of both values and of this quotient, for scores of at most 1.02 and norms within [2^-20, 2^20]
  // (has_prefilter_bound). If the norm is 0, all scores are 0. Then, once there is a limit, later columns lose the tie.
  BSE_DEVICE static float gate(float limit, float norm) {
    if (!kIsPrefiltered || limit == minus_infinity()) return limit;
    return norm == 0.0f ? unreachable() : (limit - 0x1p-20f) / norm;
  }

  const ScoreBlock& block_;
  const CandidateLists& lists_;
  const ListRange& range_;
  ListRowState& state_;
  uint32_t column_end_;
  uint32_t row_stride_;  // entries between lists of two rows
  uint64_t* entries_;    // of the block's first row
  int parity_ = 0;
};

}  // namespace bse::cuda

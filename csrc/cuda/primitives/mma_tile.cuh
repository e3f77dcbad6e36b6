// Dot products of bfloat16 rows by one warp, as mma tiles of 16 rows x 8 columns (layout of the fragments: ptx.h).
#pragma once

#include "cuda/primitives/panel_layout.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::cuda {

// acc[i][j] += rows of tile i times columns of tile j. All lanes of a warp call it together. kColumnTiles is even.
// a_row(i): ldmatrix address of this lane for row tile i. Matrices: rows 0-7, rows 8-15, then both with elements 8-15
// b_rows(j): that for column tiles j and j + 1. Matrices: elements 0-7 and 8-15 of tile j, then of tile j + 1
template <int kRowTiles, int kColumnTiles, class ARow, class BRows>
BSE_DEVICE void add_tile_products(float (&acc)[kRowTiles][kColumnTiles][4], const ARow& a_row, const BRows& b_rows) {
  uint32_t a[kRowTiles][4], b[kColumnTiles][2];
  BSE_UNROLL
  for (int i = 0; i < kRowTiles; ++i) ptx::ldmatrix_x4(a[i], a_row(i));
  BSE_UNROLL
  for (int j = 0; j < kColumnTiles; j += 2) {
    uint32_t two[4];
    ptx::ldmatrix_x4(two, b_rows(j));
    b[j][0] = two[0];
    b[j][1] = two[1];
    b[j + 1][0] = two[2];
    b[j + 1][1] = two[3];
  }
  BSE_UNROLL
  for (int i = 0; i < kRowTiles; ++i) {
    BSE_UNROLL
    for (int j = 0; j < kColumnTiles; ++j) ptx::mma_m16n8k16_bf16(acc[i][j], a[i], b[j]);
  }
}

// Products of a slice: kDepth elements of each row, in PanelLayout.
template <int kDepth>
class SliceProducts {
 public:
  // The warp's first row among the rows of A, and its first column among those of B.
  BSE_DEVICE SliceProducts(int first_row, int first_column) {
    const int lane = threadIdx.x % 32;
    a_place_ = Layout::place(first_row + lane / 8 % 2 * 8 + lane % 8, lane / 16);
    b_place_ = Layout::place(first_column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }

  // acc[i][j] += rows of tile i times columns of tile j
  template <int kRowTiles, int kColumnTiles>
  BSE_DEVICE void add(const uint16_t* a, const uint16_t* b, float (&acc)[kRowTiles][kColumnTiles][4]) const {
    BSE_UNROLL
    for (int k = 0; k < kDepth; k += 16) {
      add_tile_products(
          acc, [&](int i) { return a + Layout::at_element(a_place_, k) + 16 * i * kDepth; },
          [&](int j) { return b + Layout::at_element(b_place_, k) + 8 * j * kDepth; });
    }
  }

 private:
  using Layout = PanelLayout<kDepth>;
  int a_place_, b_place_;  // of this lane, for ldmatrix
};

}  // namespace bse::cuda

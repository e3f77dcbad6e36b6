// One step of 16 elements of a warp's products of bfloat16 rows: mma tiles of 16 rows x 8 columns (fragments: ptx.h).
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"

namespace bse::cuda {

// acc[i][j] += rows of tile i times columns of tile j. a_row(i), b_rows(j): where this lane points ldmatrix for tile i
// of the rows (in two halves, then elements 8 to 15), for tiles j and j + 1 of the columns. All lanes of a warp
// together.
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

}  // namespace bse::cuda

// Layout of bfloat16 rows in shared memory, kDepth elements of each (32 or 64), for ldmatrix without bank conflicts.
//
// A row is divided into pieces of 16 bytes. The pieces of a row are permuted by XOR with a number that depends on the
// row, so that piece p of eight successive rows falls into eight different groups of banks.
//   kDepth = 64: a row fills all banks once, and its number is row % 8
//   kDepth = 32: two rows fill all banks once, and their number is row / 2 % 4
#pragma once

#include "cuda/runtime/device.h"

namespace bse::cuda {

template <int kDepth>
struct PanelLayout {
  static_assert(kDepth == 32 || kDepth == 64, "one or two rows fill all banks");
  static constexpr int kPieces = kDepth / 8;

  // Returns the offset of a piece's first element.
  BSE_DEVICE static int place(int row, int piece) {
    return row * kDepth + ((piece ^ (row / (8 / kPieces) % kPieces)) * 8);
  }

  // Returns place(row, piece + element / 8) from the offset place(row, piece), where element is a multiple of 16 and
  // piece is 0 or 1: for one step of a product after another.
  BSE_DEVICE static int at_element(int place, int element) { return place ^ element; }
};

}  // namespace bse::cuda

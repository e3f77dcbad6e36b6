// Layout of bfloat16 rows in shared memory, kDepth elements of each (32 or 64), for ldmatrix without bank conflicts.
//
// A row is divided into pieces of 16 bytes. The pieces of a row are permuted by XOR with a number that depends on the
// row, so that piece p of eight successive rows falls into eight different groups of banks.
//   kDepth = 64: a row fills all banks once, and its number is row % 8
//   kDepth = 32: two rows fill all banks once, and their number is row / 2 % 4
#pragma once

#include "cuda/runtime/device.h"
#include "cuda/runtime/ptx.h"
#include "cuda/types/device_matrix.h"

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

// Starts copying elements [k0, k0 + kDepth) of rows id_of(0), ..., id_of(count - 1) into a panel of kRows rows, with
// all kThreads threads of the block. Past the last row and the last element come zeros.
template <int kRows, int kThreads, int kDepth, class IdOf>
BSE_DEVICE void fetch_panel(const DeviceMatrix& matrix, int count, const IdOf& id_of, int64_t k0, uint16_t* panel) {
  using Layout = PanelLayout<kDepth>;
  constexpr int kPieces = Layout::kPieces;
  const auto* elements = static_cast<const uint16_t*>(matrix.data);
  BSE_UNROLL
  for (int p = 0; p < kRows * kPieces / kThreads; ++p) {
    const int i = p * (kThreads / kPieces) + threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
    const int64_t k = k0 + piece * 8;
    const bool is_inside = i < count && k < matrix.dim;
    const uint16_t* source = is_inside ? elements + id_of(i) * matrix.row_stride_elements + k : elements;
    ptx::cp_async16(panel + Layout::place(i, piece), source, is_inside ? 16 : 0);
  }
}

}  // namespace bse::cuda

// Constants that affect only speed and memory. They were chosen by calculation, not by measurement. Each comment says
// what the constant is, then what is expected and why, to be checked on a GPU.
//
// "The example" is a proximity graph of N = 1.28 M rows, D = 128, M = 1000 candidates, K = 100, groups of 256 rows,
// bfloat16, on an H200. An H200 has 132 multiprocessors at 1.75 GHz and about 5.5 TB/s from L2. Per clock, a
// multiprocessor issues 64 integer and 128 float instructions. mma.sync reaches about 60% of 990 TFLOP/s.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::cuda::tuning {

// --- Fused top-k (fused_topk_kernel.cuh)
//
// Instruction counts are those of tests/tools/cuda_instructions.tsv for sm_90. Prediction for the example: about 2 ms.
//   products   A multiprocessor has 16 warps, four for each of its schedulers. For a panel of candidates, a warp issues
//              64 mma and about 460 other instructions, so a scheduler issues 2,100. Its tensor core takes about 1,700
//              clocks for 256 mma. For 20,000 blocks of 4 panels that is 0.7 ms, less than reading L2 takes.
//   selection  A row takes about 650 instructions, most of them for integers, and a scheduler has 16 rows of a block.
//              That is 0.9 to 1.2 ms in all.
// Two dependent reads of device memory, ids and then features, come before the products of a block. No other block of
// the multiprocessor covers them. Norms, the order of rows and the draws of candidates take about 0.3 ms more.

// Maximum number of rows of a thread block. A launch uses the largest of 64, 32 and 16 that fits shared memory.
// The example uses 64 rows on an H200. They take 132 KB for quantized scores, 16 KB for rows, 66 KB for panels and 8 KB
// for candidates. So a multiprocessor holds one block, of 16 warps. Even with 32 rows, two blocks would not fit. The
// products and the selection of a block do not overlap.
// Each of the 20,000 blocks reads 256 KB of candidates from L2. These 5.1 GB take 0.95 ms, more than the 0.55 ms of the
// products on tensor cores. With 32 rows, twice as much would be read.
constexpr int kMaxFusedRows = 64;

// Candidates of a panel, and elements of each in a slice (products.cuh).
// A panel has 32 candidates for each of 8 warps. For 8 mma, a warp reads 32 rows and 32 candidates from shared memory.
// That takes 16 clocks, and the tensor cores take 8 to 13.
// A slice takes 33 KB of shared memory. While one is multiplied, the next one comes. At 24 bytes per clock from L2, it
// takes 1,400 clocks and about 300 of latency, and the products of a slice take about 900. So fused top-k waits for L2.
// To be compared on a GPU: four slices of 32 elements in the same memory, three of them in flight.
constexpr int kFusedPanelColumns = 256, kFusedPanelDepth = 64;

// Elements in a slice for blocks of 16 rows. Such blocks serve small groups, and GPUs with 99 KB of shared memory per
// block (sm_86, sm_89, sm_120). The example takes 80 KB: 33 KB for quantized scores, 4 KB for rows, 33 KB for panels, 8
// KB for candidates and 2 KB of static memory. Slices of 64 elements would not fit.
// The 80,000 blocks of the example read 20.5 GB from L2, each block in 16 slices of 16 KB.
// RTX 4090 (128 multiprocessors at 2.5 GHz, 5 TB/s from L2): a slice takes 1050 clocks of transfer and about 300 of
// latency. Nothing hides the latency, because one slice is in flight and its products take 100 clocks. A block takes
// 22,000 clocks, and 3,000 more for selection by 8 warps. The total is 6.3 ms.
// RTX 3090 (82 multiprocessors at 1.7 GHz, 2 TB/s from L2): the total is about 16 ms.
// For comparison, the instructions of matrix top-k take at least 6 ms on the RTX 4090. On the RTX 3090, the scores do
// not fit the L2 of 6 MB, and device memory adds 10 ms. If fused top-k turns out slower on a GPU, call
// plan_proximity_graph(..., max_fused_rows = 0) there, which selects matrix top-k.
constexpr int kSmallFusedPanelDepth = 32;

// Maximum number of close columns that a warp rescores; a multiple of 32. If a row has more, the whole block scores all
// its columns exactly. That costs 20 times as much.
// In a simulation of the example, a quarter of the rows have close columns, at most 5 of them. Up to 32 close columns
// of a row take 420 instructions, which is 0.15 ms in total. Features whose cosines spread by only .002 have about 27
// close columns per row.
constexpr int kMaxClose = 128;

// --- Matrix top-k (score_kernel.cuh, prefilter_kernel.cuh, select_kernel.cuh), and draws

// Bytes of a score matrix, if memory allows. A matrix of this size stays in L2.
// The example without fused top-k takes 8 ms or more: 160 rounds of three launches. They write 5.1 GB once, read it at
// least twice, and fill histograms in shared memory.
constexpr size_t kGraphScoreBytes = size_t{32} << 20;

// Bytes of candidates that one launch draws, if memory allows. So many draws keep all multiprocessors busy. The example
// has 20 MB of candidates.
constexpr size_t kDrawBytes = size_t{64} << 20;

// --- Streaming top-k (streaming_topk.cu)

// A tile is 128 rows x 128 columns. The prediction is for exact neighbors with N = 200,000, d = 128, K = 100 in
// bfloat16, on an H200. In total it is 24 to 32 ms, which is 32 to 43% of the peak:
//   products   They are 2 N^2 d = 10.2 Tflop, which take 17.5 ms of mma.sync. For 4096 scores, a warp issues 256 mma,
//              64 ldmatrix and 256 instructions that compare scores with the limits of rows. Where limits are tight,
//              each row that gets an entry takes about 30 more. ldmatrix takes 60% of the bandwidth of shared memory.
//   lists      A row has 8 cuts and 1500 entries, so 2.4 GB are written. The first cut comes at 320 entries. Later
//              cuts come each time the number of columns has grown by a factor of 2.5, because the longest of 128 lists
//              causes a cut of all. A cut takes about 2500 cycles, mostly waiting. That is 0.6M cycles per warp, beside
//              5M for products. The second block of the multiprocessor uses about half of these cycles.
//   base       1563 tiles of rows read it from L2. These 80 GB take 14 ms at 5.5 TB/s, hidden behind the products. As
//              264 tiles are processed at a time, it comes from device memory 6 times, 0.3 GB in total.
//   edges      They take 2 to 3 ms. 110 candidates per row are scored exactly, which reads 5.6 GB from L2.
// A score matrix takes 150 ms or more, because 160 GB are written once and read up to four times.
// float32 takes 5.1e12 fused multiply-adds. That is 172 ms at the peak, and perhaps 260 ms because panels are not
// prefetched.
// In the worst case, every tile has better candidates than all tiles before it. Then each tile causes a cut, and the
// search is up to 20 times slower.

// Maximum number of entries of a list when its row meets the next tile. A longer list is first cut to about K. With a
// larger value there are fewer cuts, but limits are looser between them.
constexpr int64_t max_listed(int64_t num_selected) { return 2 * num_selected + 96; }

// Maximum number of selected candidates (range_min + K) for which lists are used, rather than a score matrix. A warp
// would cut longer lists slowly, and its sort of them would not fit shared memory.
constexpr int64_t kMaxListSelected = 512;

// Minimum number of base rows for which lists are used. A row of up to 1024 scores of a matrix is held in registers.
constexpr int64_t kMinListColumns = 1025;

// Minimum number of base rows per selected candidate for which lists are used. They pay where most scores are not
// appended.
constexpr int64_t kMinColumnsPerSelected = 4;

// Maximum bytes of the lists of one launch. 200,000 rows with K = 100 take 717 MB.
constexpr size_t kListBytes = size_t{1} << 30;

// Blocks that a multiprocessor holds at once. So many fit its registers (128 threads of 255, or 256 of 128) and its
// shared memory.
constexpr int64_t kListBlocksPerMultiprocessor = 2;

// The constants below choose the number of splits of the base (best_split() in streaming_topk.cu). More splits give
// more blocks, but each split has a cost. It is counted in units of the time of a tile: 3300 cycles, with two blocks
// side by side.

// Cuts of each list of a block. There are about as many whether the split is long or short, because a cut comes each
// time the number of columns has grown by a factor.
constexpr int64_t kSplitCuts = 7;

// Rows whose lists a block cuts in the time of one tile. A warp takes 2500 cycles to cut a list, and the other block
// uses half of these. So the 4 warps of a block cut 4 * 3300 / 1250 lists, about 10.
constexpr int64_t kCutRowsPerTile = 10;

// Rows for which a multiprocessor joins one more list in the time of one tile. 24 warps fit a multiprocessor, and each
// joins one list of about 200 entries, which takes 12 passes.
constexpr int64_t kJoinedRowsPerMultiprocessor = 24;

// Minimum number of tiles of columns in a split.
constexpr int64_t kMinSplitTiles = 2;

}  // namespace bse::cuda::tuning

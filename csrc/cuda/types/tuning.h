// Constants chosen by calculation, not by measurement. Each comes with its expected cost, to be checked on a GPU.
// "The example" is N = 1.28 M rows, D = 128, M = 1000 candidates, K = 100, groups of 256 rows, bfloat16, on an H200.
// That has 132 multiprocessors at 1.75 GHz and about 5.5 TB/s from L2. Per clock and multiprocessor it issues 64
// integer and 128 float instructions. mma.sync reaches about 60% of 990 TFLOP/s.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::cuda::tuning {

// --- Fused top-k (fused_topk_kernel.cuh)
//
// Prediction for the example: 2.3 ms, 1.0 ms for products and 1.3 ms for selection. Norms, order and draws before it
// take about 0.3 ms more.

// Rows of a thread block: the largest of 64, 32 and 16 that fits shared memory. On an H200 the example uses 64: 132 KB
// of quantized scores, 17 KB of rows, 61 KB of panels and 12 KB of candidates. A multiprocessor holds one block of 16
// warps. Each of the 20,000 blocks reads 256 KB of candidates from L2. These 5.1 GB take 0.95 ms, more than the 0.55 ms
// of the products. 32 rows would double the reads. Products and selection of a block do not overlap. Even with 32 rows,
// two blocks do not fit one multiprocessor.
constexpr int kMaxFusedRows = 64;

// Candidates of a panel: 32 for each of 8 warps. For 8 mma a warp reads 32 + 32 rows: 16 clocks of shared memory,
// against 8 to 13 clocks of the tensor cores. A stage takes 20 KB. While one stage is used, two are in flight, 41 KB
// per multiprocessor. At 24 bytes per clock from L2 that is 1,700 clocks, more than the latency of about 300.
constexpr int kFusedPanelColumns = 256, kFusedPanelDepth = 32, kFusedPanelStages = 3;

// Blocks of 16 rows serve GPUs with 99 KB per block (sm_86, sm_89, sm_120), and small groups. The example takes 92 KB:
// 33 KB of quantized scores, 4 KB of rows, 41 KB of panels in two stages, 12 KB of candidates and 2 KB of static
// memory. A third stage would not fit. The 80,000 blocks read 20.5 GB from L2, each in 16 pieces of 16 KB.
// On an RTX 4090 (128 multiprocessors at 2.5 GHz, 5 TB/s from L2) a piece takes 1050 clocks of transfer and about 300
// of latency. Nothing hides the latency: one piece is in flight, and its products take 100 clocks. A block takes 22,000
// clocks, plus 5,000 for selection by 8 warps: 6.8 ms in total. On an RTX 3090 (82 multiprocessors at 1.7 GHz, 2 TB/s)
// the total is about 16 ms.
// Matrix top-k takes at least 6 ms on the RTX 4090, by its instructions. On the RTX 3090, whose L2 of 6 MB cannot hold
// the scores, device memory adds 10 ms. Where fused top-k loses, plan_proximity_graph(..., max_fused_rows = 0) selects
// matrix top-k.
constexpr int kSmallFusedPanelStages = 2;

// Guesses by interpolation before a threshold search falls back to bisection (quantized_cut.cuh). Simulations with
// normal, clustered and collapsed features need 7 to 10 counts per row. A search without prior knowledge needs 18, so
// blocks pass their last guess on.
// For 1024 columns ptxas makes 41 instructions of a count (sm_90) and about 35 of the decision. With loading, listing
// and writing, a row takes 900 clocks of a quarter of a multiprocessor: 1.25 ms for the example.
constexpr int kInterpolations = 6;

// Limit of the close columns that a warp rescores, a multiple of 32. A row with more is left to the whole block, at 20
// times the cost. In the example (simulated) a quarter of the rows have close columns, at most 5. Each 32 of them take
// 420 instructions, 0.15 ms in total. Features whose cosines spread by .002 have about 27 per row.
constexpr int kMaxClose = 128;

// --- Matrix top-k (score_kernel.cuh, prefilter_kernel.cuh, select_kernel.cuh), and draws

// Bytes of a score matrix if memory allows: an amount that stays in L2. Without fused top-k the example takes 8 ms or
// more, for 160 rounds of three launches. These write 5.1 GB once, read it at least twice, and fill histograms in
// shared memory.
constexpr size_t kGraphScoreBytes = size_t{32} << 20;

// Bytes of candidates drawn by one launch if memory allows, enough to fill all multiprocessors. The example has 20 MB.
constexpr size_t kDrawBytes = size_t{64} << 20;

// --- Streaming top-k (streaming_topk.cu)

// Prediction for exact neighbors with N = 200,000, d = 128, K = 100 in bfloat16:
//   products   2 N^2 d = 10.2 Tflop: 17.5 ms of mma.sync. For 4096 scores a warp issues 256 mma, 64 ldmatrix and 256
//              instructions of gates. While limits are tight, each list appended to takes about 30 more. ldmatrix
//              takes 60% of the bandwidth of shared memory.
//   lists      8 cuts and 1500 entries per row, 2.4 GB written. The first cut is at 320 entries, then one for each
//              factor of 2.5 in columns (the longest of 128 lists sets off a cut of all). A cut takes about 2500
//              cycles, mostly waiting: 0.6M per warp, beside 5M of products. The other block fills about half of them.
//   base       1563 row tiles read it from L2: 80 GB, 14 ms at 5.5 TB/s, hidden behind the products. It comes from
//              device memory 6 times: 0.3 GB.
//   edges      2 to 3 ms: 110 candidates per row are scored exactly, 5.6 GB from L2.
// In total this is 24 to 32 ms, 32 to 43% of the peak. A score matrix takes 150 ms or more: 160 GB are written once and
// read up to four times.
// float32 takes 5.1e12 fused multiply-adds: 172 ms at the peak, perhaps 260 ms because panels are not prefetched.
// If every tile is better than those before it, each tile sets off a cut, up to 20 times slower.

// A list longer than this is cut to about K before its row meets the next tile. With a larger value there are fewer
// cuts, but looser limits between them.
constexpr int64_t max_listed(int64_t num_selected) { return 2 * num_selected + 96; }

// More candidates are selected from a score matrix: a warp would cut such long lists slowly, and its sort would not fit
// shared memory.
constexpr int64_t kMaxListSelected = 512;

// Lists pay where most scores are not appended. Besides, a row of up to 1024 matrix scores is held in registers.
constexpr int64_t kMinListColumns = 1025;
constexpr int64_t kMinColumnsPerSelected = 4;

// Limit in bytes for the lists of one launch. 200,000 rows with K = 100 take 717 MB.
constexpr size_t kListBytes = size_t{1} << 30;

// Blocks that a multiprocessor holds at once, as registers (128 threads of 255, or 256 of 128) and shared memory allow.
constexpr int64_t kListBlocksPerMultiprocessor = 2;

// Cost of one more split of the base, in units of a tile's time (3300 cycles, with two blocks side by side). Each block
// makes about 7 more cuts. A cut takes 2500 cycles for each row of a warp, half of them filled by the other block. Each
// row has one more list of about 200 entries to join. That takes 12 passes by one of the 24 warps that fit a
// multiprocessor.
constexpr int64_t kSplitCuts = 7, kCutRowsPerTile = 10;
constexpr int64_t kJoinedRowsPerMultiprocessor = 24;
constexpr int64_t kMinSplitTiles = 2;

}  // namespace bse::cuda::tuning

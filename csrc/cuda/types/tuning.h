// Constants that were chosen by reckoning, not by measuring: each with what it is expected to cost, for whoever has a
// GPU to judge. "The example" is N = 1.28 M rows, D = 128, M = 1000 candidates, K = 100, 256 rows a draw, bfloat16, on
// an H200: 132 multiprocessors at 1.75 GHz, some 5.5 TB/s from L2, 64 integer and 128 float instructions a clock and
// multiprocessor, mma.sync at about 60 % of 990 TFLOP/s.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::cuda::tuning {

// --- Bands (fused_topk_kernel.cuh)
//
// Prediction for the example: 2.3 ms, of which products 1.0 and selection 1.3; norms, order and draws before it some
// 0.3 more.

// Rows of a band: the largest of 64, 32, 16 that shared memory has room for. The example has 64 on an H200: 132 KB of
// keys, 17 KB of rows, 61 KB of panels, 12 KB of candidates; one block of 16 warps a multiprocessor. Its 20,000 bands
// read 256 KB of candidates each: 5.1 GB from L2, 0.95 ms, above the 0.55 ms of the products themselves; 32 rows would
// double the former. The two phases of a block do not overlap; with 32 rows, two blocks would just not fit.
constexpr int kMaxFusedRows = 64;

// Candidates of a panel, 32 for each warp of a row of warps: a warp reads 32 + 32 rows for 8 mma, 16 clocks of shared
// memory for 8 to 13 of the tensor cores. 20 KB a stage; two are in flight while one is used, 41 KB a multiprocessor:
// at 24 bytes a clock from L2, 1,700 clocks, more than its latency of some 300.
constexpr int kFusedPanelColumns = 256, kFusedPanelDepth = 32, kFusedPanelStages = 3;

// Bands of 16 rows are for GPUs with 99 KB for a block (sm_86, sm_89, sm_120), and for draws of few rows. The example
// takes 33 KB of keys, 4 KB of rows, 41 KB of panels in two stages, 12 KB of candidates, 2 KB of its own: 92 KB; a
// third stage would not fit. It has 80,000 bands, which read 20.5 GB from L2, in 16 pieces of 16 KB each. On an RTX
// 4090 (128 multiprocessors at 2.5 GHz, 5 TB/s from L2) a piece is 1050 clocks of transfer and some 300 of latency,
// which nothing covers as one is in flight and its products are 100 clocks: 22,000 a band, and 5,000 for selection by 8
// warps: 6.8 ms in all. On an RTX 3090 (82 at 1.7 GHz, 2 TB/s) some 16 ms. Matrices: 6 ms or more, by instructions, on
// the former; on the latter, whose L2 of 6 MB holds no scores, 10 ms more for device memory. Where bands lose,
// plan_proximity_graph(..., max_fused_rows = 0) leaves matrices.
constexpr int kSmallFusedPanelStages = 2;

// Guesses by interpolation before a search for a threshold is left to bisection (quantized_cut.cuh). On normal,
// clustered and collapsed features, simulated: 7 to 10 counts a row; 18 where a search begins with nothing known, hence
// the guess that blocks leave to each other. For 1024 columns ptxas makes 41 instructions of a count (sm_90) and some
// 35 of what decides; with loading, listing and writing, 900 clocks of a quarter of a multiprocessor a row: 1.25 ms for
// the example.
constexpr int kInterpolations = 6;

// Close columns that a warp scores as defined, a multiple of 32; with more, the row is the whole block's, at 20 times
// the cost. The example has some in a quarter of its rows, at most 5 (simulated), 420 instructions for each 32 of them:
// 0.15 ms in all. Features whose cosines spread by .002 have about 27 in every row.
constexpr int kMaxClose = 128;

// --- Matrices (score_kernel.cuh, prefilter_kernel.cuh, select_kernel.cuh), and draws

// Scores at a time, while memory allows: what stays in L2. The example without bands: 160 rounds of three launches,
// 5.1 GB written and read twice or more, histograms in shared memory: 8 ms or more.
constexpr size_t kGraphScoreBytes = size_t{32} << 20;

// Draws at a time, while memory allows; each launch has room for all multiprocessors then. The example has 20 MB of
// them.
constexpr size_t kDrawBytes = size_t{64} << 20;

// --- Candidate lists (streaming_topk.cu)

// Exact neighbors: for N = 200,000, d = 128, K = 100 in bfloat16:
//   products   2 N^2 d = 10.2 Tflop: 17.5 ms of mma.sync. Beside them a warp issues, for 4096 scores of 256 mma, 64
//              ldmatrix, 256 instructions of gates and, while limits are tight, some 30 for each list appended to; of
//              shared memory's bandwidth ldmatrix takes 60%
//   lists      8 cuts and 1500 entries a row: the first at 320, then one for each factor of 2.5 in columns (the longest
//              of 128 lists sets off a cut of all). 2.4 GB written. A cut is some 2500 cycles, mostly of waiting: 0.6M
//              a warp, beside 5M for its products, about half of them filled by the other block
//   base       1563 row tiles read it from L2: 80 GB, 14 ms at 5.5 TB/s, behind the products; from device memory it
//              comes 6 times: 0.3 GB
//   edges      2 to 3 ms: 110 candidates a row scored as defined, 5.6 GB from L2
// together 24 to 32 ms, 32 to 43% of the peak. A scores takes 160 GB written and up to four times read: 150 ms or more.
// float32: 5.1e12 fused multiply-adds, 172 ms at their peak, perhaps 260 ms as panels are not fetched ahead.
// Where every tile is better than those before, lists are cut for each: up to 20 times as long.

// A list is cut to about K when it is longer than this, before it meets the next tile. Longer: fewer cuts, looser
// thresholds between them.
constexpr int64_t max_listed(int64_t num_selected) { return 2 * num_selected + 96; }

// More are selected from a scores: a warp would be slow to cut so long a list, and its sort would not fit shared
// memory.
constexpr int64_t kMaxListSelected = 512;

// Lists pay where most scores are not appended. A scores row of 1024 is held in registers, too.
constexpr int64_t kMinListColumns = 1025;
constexpr int64_t kMinColumnsPerSelected = 4;

// Lists of so many rows at a time; 200,000 rows of K = 100 take 717 MB.
constexpr size_t kListBytes = size_t{1} << 30;

// Blocks that a multiprocessor is to hold at once, by registers (128 threads of 255, 256 of 128) and shared memory.
constexpr int64_t kListBlocksPerMultiprocessor = 2;

// What a further split of the base costs, in the time of a tile (3300 cycles, with two blocks side by side): for each
// block some 7 more cuts, each of 2500 cycles for every row a warp has, half of them filled by the other block; and for
// each row a list more of some 200 entries to be joined, in 12 passes by one of the 24 warps there is room for.
constexpr int64_t kSplitCuts = 7, kCutRowsPerTile = 10;
constexpr int64_t kJoinedRowsPerMultiprocessor = 24;
constexpr int64_t kMinSplitTiles = 2;

}  // namespace bse::cuda::tuning

// Choices that change how fast results come, never the results. Beside each: what it was chosen by. No GPU has measured
// them; predictions are for an H200 (132 multiprocessors, 1.75 GHz, 4.8 TB/s, 50 MB of L2, 989 Tflop/s in bfloat16, of
// which mma.sync reaches about 60%).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bse::cuda::tuning {

// Exact neighbours by candidate lists (list_search.cu). For N = 200,000, d = 128, K = 100 in bfloat16:
//   products   2 N^2 d = 10.2 Tflop: 17.5 ms of mma.sync. Beside them a warp issues, for 4096 scores of 256 mma, 64
//              ldmatrix, 256 instructions of gates and, while limits are tight, some 30 for each list appended to; of
//              shared memory's bandwidth ldmatrix takes 60%
//   lists      8 cuts and 1500 entries a row: the first at 320, then one for each factor of 2.5 in columns (the longest
//              of 128 lists sets off a cut of all). 2.4 GB written. A cut is some 2500 cycles, mostly of waiting: 0.6M
//              a warp, beside 5M for its products, about half of them filled by the other block
//   base       1563 row tiles read it from L2: 80 GB, 14 ms at 5.5 TB/s, behind the products; from device memory it
//              comes 6 times: 0.3 GB
//   links      2 to 3 ms: 110 candidates a row scored as defined, 5.6 GB from L2
// together 24 to 32 ms, 32 to 43% of the peak. A slab takes 160 GB written and up to four times read: 150 ms or more.
// float32: 5.1e12 fused multiply-adds, 172 ms at their peak, perhaps 260 ms as panels are not fetched ahead.
// Where every tile is better than those before, lists are cut for each: up to 20 times as long.

// A list is cut to about K when it is longer than this, before it meets the next tile. Longer: fewer cuts, looser
// thresholds between them.
constexpr int64_t most_listed(int64_t num_selected) { return 2 * num_selected + 96; }

// More are selected from a slab: a warp would be slow to cut so long a list, and its sort would not fit shared memory.
constexpr int64_t kMostListSelected = 512;

// Lists pay where most scores are not appended. A slab row of 1024 is held in registers, too.
constexpr int64_t kLeastListColumns = 1025;
constexpr int64_t kLeastColumnsPerSelected = 4;

// Lists of so many rows at a time; 200,000 rows of K = 100 take 717 MB.
constexpr size_t kListBytes = size_t{1} << 30;

// Blocks that a multiprocessor is to hold at once, by registers (128 threads of 255, 256 of 128) and shared memory.
constexpr int64_t kListBlocksPerMultiprocessor = 2;

// What a further split of the base costs, in the time of a tile (3300 cycles, with two blocks side by side): for each
// block some 7 more cuts, each of 2500 cycles for every row a warp has, half of them filled by the other block; and for
// each row a list more of some 200 entries to be joined, in 12 passes by one of the 24 warps there is room for.
constexpr int64_t kSplitCuts = 7, kCutRowsPerTile = 10;
constexpr int64_t kJoinedRowsPerMultiprocessor = 24;
constexpr int64_t kLeastSplitTiles = 2;

}  // namespace bse::cuda::tuning

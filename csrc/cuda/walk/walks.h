// Entry points of the CUDA engine for random walks, with the batches and counts of csrc/cpu/walk/batch_walks.h.
//
// All pointers are borrowed and point to memory of the current device. Work is queued on `stream` (a cudaStream_t).
// Nothing here allocates, synchronizes, or reads device memory on the host. Bad values are reported in `status`
// (status.h), which clear_status prepares. Any number of calls may share it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"

namespace bse::cuda {

// status: [kNumStatusWords]
void clear_status(uint64_t* status, void* stream);

// Computes the lengths of valid prefixes, and reports ids that do not belong in a neighbor table. Degrees are set even
// then. degrees: [num_rows]
void launch_row_degrees(const GraphView& graph, int32_t* degrees, uint64_t* status, void* stream);

// Makes one batch per walk: by canonical walks (csrc/common/walk.h), or uniform batches. If a walk meets a neighbor
// that is no row, the neighbor is reported and ends the segment as if there were no neighbors. If the root of a walk is
// no row, it is reported, and the walk gets -1 for all nodes and 0 for all counts. scratch: walk_scratch_bytes(request)
// bytes, aligned to 16, or null if that is 0
size_t walk_scratch_bytes(const WalkRequest& request);
void launch_walks(const WalkRequest& request, const WalkResult& result, void* scratch, uint64_t* status, void* stream);

// Draws the root of each walk uniformly and independently. roots: [num_walks]
void launch_independent_roots(int64_t num_rows, int64_t num_walks, uint64_t seed, uint32_t epoch, int64_t* roots,
                              void* stream);

// Writes a keyed permutation of 0..num_rows-1. order: [num_rows]
void launch_root_order(int64_t num_rows, uint64_t seed, uint32_t epoch, int64_t* order, void* stream);

}  // namespace bse::cuda

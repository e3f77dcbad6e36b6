// Entry points of the CUDA engine that walk: what csrc/cpu/walk/batch_walks.h is on the CPU, with the same
// batches and counts.
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream` (a cudaStream_t); nothing
// here allocates, synchronizes, or reads device memory on the host. Bad values are reported in `status` (status.h),
// which clear_status prepares and any number of calls may share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"

namespace bse::cuda {

// status: [kNumStatusWords]
void clear_status(uint64_t* status, void* stream);

// Lengths of the valid prefixes; reports ids that do not belong in a table. degrees: [num_rows], set even then.
void launch_row_degrees(const GraphView& graph, int32_t* degrees, uint64_t* status, void* stream);

// Canonical walks (csrc/common/walk.h) or uniform batches, one each. scratch: walk_scratch_bytes(request)
// bytes, aligned to 16, may be null for none. A neighbor that is no row is reported
// if the walk comes to it, and ends its segment as if there were no neighbors. A walk whose root is no row is reported
// and gets -1 for all nodes and 0 for all counts.
size_t walk_scratch_bytes(const WalkRequest& request);
void launch_walks(const WalkRequest& request, const WalkResult& result, void* scratch, uint64_t* status, void* stream);

// Uniform root of each walk. roots: [num_walks]
void launch_independent_roots(int64_t num_rows, int64_t num_walks, uint64_t seed, uint32_t epoch, int64_t* roots,
                              void* stream);

// Keyed permutation of 0..num_rows-1. order: [num_rows]
void launch_root_order(int64_t num_rows, uint64_t seed, uint32_t epoch, int64_t* order, void* stream);

}  // namespace bse::cuda

// Entry point of the CUDA engine for mutual edges, with the results of csrc/cpu/graph/mutual_edges.h.
//
// All pointers are borrowed and point to memory of the current device. Work is queued on `stream` (a cudaStream_t).
// Nothing here allocates, synchronizes, or reads device memory on the host.
#pragma once

#include <cstdint>

#include "cuda/types/requests.h"

namespace bse::cuda {

// Reports an id outside [-1, num_instances) in `status`, and leaves its edge out. edges: [num_rows, num_neighbors],
// must not overlap the graph; degrees: [num_rows]; status: [kNumStatusWords], as clear_status() prepares it
void launch_mutual_edges(const MutualEdgesRequest& request, const Edges& edges, int32_t* degrees, uint64_t* status,
                         void* stream);

}  // namespace bse::cuda

// Requests to the CUDA engine. All pointers are to memory of the current device.
#pragma once

#include <cstdint>

#include "common/requests.h"
#include "cuda/types/device_matrix.h"
#include "cuda/types/graph_view.h"

namespace bse::cuda {

struct ProximityGraphRequest : BasicProximityGraphRequest<DeviceMatrix> {
  bool has_scores = false;  // the edges have scores
};

using KnnRequest = BasicKnnRequest<DeviceMatrix>;

// The strategies are kWalk and kUniform.
using WalkRequest = BasicWalkRequest<GraphView>;

using MutualEdgesRequest = BasicMutualEdgesRequest<GraphView>;

struct PartitionRequest : BasicPartitionRequest<GraphView> {
  // [num_reference_walks(request), batch_size] rows: the nodes of canonical walks on the same graph, with the same
  // threshold, seed and epoch. Walk w has id w, and its root is row w of the root order (Purpose::kRootOrder). May be
  // null if there are no reference walks.
  const int32_t* walk_nodes = nullptr;
};

}  // namespace bse::cuda

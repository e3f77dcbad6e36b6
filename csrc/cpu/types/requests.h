// Requests to the CPU engine.
#pragma once

#include <cstdint>

#include "common/requests.h"
#include "cpu/types/graph_view.h"
#include "cpu/types/matrix_view.h"

namespace bse {

struct ProximityGraphRequest : BasicProximityGraphRequest<MatrixView> {
  int num_threads = 1;
  int64_t max_memory_bytes = 0;
};

struct KnnRequest : BasicKnnRequest<MatrixView> {
  int num_threads = 1;
  int64_t max_memory_bytes = 0;
};

// Of a kNN request without base_ids, whose queries and base rows of equal ids are the same instance.
struct KnnOfListsRequest : KnnRequest {
  const int32_t* lists = nullptr;  // [num_queries, list_size] rows of base; -1 is none, anywhere
  int64_t list_size = 0;
};

struct WalkRequest : BasicWalkRequest<GraphView> {
  int num_threads = 1;
};

using MutualEdgesRequest = BasicMutualEdgesRequest<GraphView>;

struct PartitionRequest : BasicPartitionRequest<GraphView> {
  int num_threads = 1;
};

}  // namespace bse

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

// A kNN request with query_ids and exclude_self: queries and base rows of equal ids are the same instance.
struct KnnOfListsRequest : KnnRequest {
  const int32_t* lists = nullptr;  // [num_queries, list_size] places in base_ids, or rows of base; -1 is none, anywhere
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

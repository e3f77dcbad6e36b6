// Communities of a graph: every row is in exactly one, and as many edges as possible stay inside communities.
#pragma once

#include <cstdint>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

struct CommunitiesRequest {
  GraphView graph;   // fewer than 2^31 rows
  int64_t size = 0;  // rows of a community
  uint64_t key = 0;  // of the hashes
  int num_threads = 1;
};

// Writes all rows: the full communities in hash order, then the ragged one. Rows of a community ascend. Throws
// Interrupted if the Monitor stops the call.
void communities(const CommunitiesRequest& request, int32_t* rows, Monitor& monitor);

}  // namespace bse

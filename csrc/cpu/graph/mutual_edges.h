// Mutual edges of a graph: an edge i -> j is kept if row j lists i.
#pragma once

#include "cpu/runtime/thread_team.h"
#include "cpu/types/requests.h"

namespace bse {

// Writes the mutual edges of each row, in the order of its neighbors, and their number. Each occurrence of a repeated
// neighbor counts as an edge of its own. A self-loop is mutual. An edge to an instance without a row is not. Throws
// std::invalid_argument for an id outside [-1, num_instances).
// edges: [num_rows, num_neighbors], must not overlap the graph; degrees: [num_rows]
void mutual_edges(ThreadTeam& team, const MutualEdgesRequest& request, const Edges& edges, int32_t* degrees);

}  // namespace bse

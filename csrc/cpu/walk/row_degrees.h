// The number of neighbors of each row of a graph, and a check of all its ids.
#pragma once

#include <cstdint>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

// Lengths of the valid prefixes. Throws std::invalid_argument for an id outside [-1, num_instances) or a -1 inside a
// prefix. degrees: [num_rows]
void row_degrees(ThreadTeam& team, const GraphView& graph, int32_t* degrees);

}  // namespace bse

// Degrees of the rows of a graph, and a check of all its neighbor ids.
#pragma once

#include <cstdint>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

// Writes the number of valid neighbors at the front of each row. Throws std::invalid_argument for an id outside
// [-1, num_instances) or a -1 before a neighbor. degrees: [num_rows]
void row_degrees(ThreadTeam& team, const GraphView& graph, int32_t* degrees);

}  // namespace bse

// Proximity graphs in which every row draws its own candidates, as in the paper. Gathering them limits the speed.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Returns the scratch of a thread beside its workspace (BlockPlan), in bytes.
int64_t per_row_draw_bytes(const ProximityGraphRequest& request);

// Builds the groups of the request, of one row each. prefilters: in the order in which they are tried
void build_with_per_row_candidates(const GraphSubset& subset, const BlockPlan& plan,
                                   const std::vector<Prefilter>& prefilters, const Edges& edges, ThreadTeam& team);

}  // namespace bse

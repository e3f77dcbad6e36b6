// Proximity graphs in which every row has a draw of its own, as in the paper: bound by the gather of its candidates.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Scratch of a thread beside its block.
int64_t per_row_draw_bytes(const ProximityGraphRequest& request);

// prefilters: in the order in which they are tried
void build_with_per_row_candidates(const GraphSubset& subset, const BlockPlan& plan,
                                   const std::vector<Prefilter>& prefilters, const Edges& edges, ThreadTeam& team);

}  // namespace bse

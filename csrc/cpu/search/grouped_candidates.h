// Proximity graphs whose rows share their draws: the gather becomes dense block products.
#pragma once

#include <cstdint>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"

namespace bse {

// Scratch of a thread beside its blocks.
int64_t grouped_draw_bytes(const ProximityGraphRequest& request);

// margin: of a Prefilter by the features, or 0 for defined scores
void build_with_grouped_candidates(const GraphSubset& subset, const BlockPlan& plan, double margin, const Edges& edges,
                                   ThreadTeam& team);

}  // namespace bse

// Proximity graphs whose rows share candidates within groups. Scoring is then a dense product of blocks, not a gather.
#pragma once

#include <cstdint>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"

namespace bse {

// Returns the scratch of a thread beside its workspace (BlockPlan), in bytes.
int64_t grouped_draw_bytes(const ProximityGraphRequest& request);

// Builds the groups of the request. margin: margin of prefilter_by_features(), or 0 for exact scores only
void build_with_grouped_candidates(const GraphSubset& subset, const BlockPlan& plan, double margin, const Edges& edges,
                                   ThreadTeam& team);

}  // namespace bse

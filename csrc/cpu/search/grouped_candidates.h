// Proximity graphs whose rows share candidates within groups. Scoring is then a dense product of blocks, not a gather.
#pragma once

#include <cstdint>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Returns the scratch of a thread beside its workspace (BlockPlan), in bytes.
int64_t grouped_draw_bytes(const ProximityGraphRequest& request);

// Builds the groups of the request. prefilter: may be off
void build_with_grouped_candidates(const GraphSubset& subset, const BlockPlan& plan, const Prefilter& prefilter,
                                   const Edges& edges, ThreadTeam& team);

}  // namespace bse

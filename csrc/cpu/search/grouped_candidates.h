// Proximity graphs whose rows share their draws: the gather becomes dense block products.
#pragma once

#include <cstdint>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"

namespace bse {

// Scratch of a thread beside its blocks.
int64_t shared_draw_bytes(const ProximityGraphRequest& request);

// margin: of a Screen by the features, or 0 for defined scores
void build_by_shared_draws(const GraphPool& pool, const BlockPlan& plan, double margin, const Links& links,
                           ThreadTeam& team);

}  // namespace bse

// Proximity graphs in which every row draws its own candidates, as in the paper. Gathering them limits the speed.
#pragma once

#include <cstdint>

#include "cpu/candidates/drawn_candidates.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/byte_copy.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Returns the scratch of a thread beside its workspace (BlockPlan), in bytes.
int64_t per_row_draw_bytes(const ProximityGraphRequest& request);

// Prefilters in the order in which they are tried. Each is left out if it is null or off.
struct PerRowPrefilters {
  const ByteCopy* copy = nullptr;  // of the documents
  Prefilter by_features;
};

// Builds the groups of the request, of one row each.
void build_with_per_row_candidates(const GraphSubset& subset, const BlockPlan& plan, const PerRowPrefilters& prefilters,
                                   const Edges& edges, ThreadTeam& team);

}  // namespace bse

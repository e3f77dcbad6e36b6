// Exact kNN graph of one set of rows. Each pair is scored once, because its score serves both rows.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/search/search.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Upper bound on the scratch of knn_symmetric(), even if max_memory allows more.
constexpr int64_t kMaxSymmetricBytes = int64_t{1} << 30;

// Returns the scratch in bytes: mainly the buffers of all rows, and a workspace of each thread.
int64_t knn_symmetric_bytes(const BlockPlan& plan, int64_t num_rows, int64_t dim);

// Returns whether there are enough rows to set thresholds by sampling. num_selected: K + range_min
bool can_search_symmetric(int64_t num_selected, int64_t num_rows);

// Writes the edges of all rows except the few that it could not finish, which it returns. prefilter: may be off; ids:
// [num_rows], ascending; norms: [num_rows], row_norm() of each
std::vector<int64_t> knn_symmetric(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter,
                                   const int64_t* ids, const float* norms, const Edges& edges, ThreadTeam& team);

}  // namespace bse

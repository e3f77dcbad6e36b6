// The exact kNN graph with each pair scored once: where base is the query set, a score belongs to two rows.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/search/search.h"
#include "cpu/topk/block_plan.h"
#include "cpu/topk/prefilter.h"

namespace bse {

// Scratch that is worth it when nothing is said about memory.
constexpr int64_t kMaxBytesByPairs = int64_t{1} << 30;

// Scratch: the buffers of all rows, and of a block of rows for each thread.
int64_t knn_symmetric_bytes(const BlockPlan& plan, int64_t num_rows);

// Whether there are rows enough to sample.      num_selected: K + range_min
bool can_search_symmetric(int64_t num_selected, int64_t num_rows);

// Returns the rows that it could not finish, few of them. prefilter: may be off; ids: [num_rows], ascending; norms:
// [num_rows], row_norm() of each
std::vector<int64_t> knn_symmetric(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter,
                                   const int64_t* ids, const float* norms, const Edges& edges, ThreadTeam& team);

}  // namespace bse

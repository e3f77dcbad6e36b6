// Entry points of the CPU engine that turn features into edges. Pointers are borrowed for the call only.
#pragma once

#include "cpu/runtime/thread_team.h"
#include "cpu/types/requests.h"

namespace bse {

// Selects for each row of the request's groups the best of M random candidates (csrc/common/draw.h, score.h).
// O(rows M D) fused multiply-adds, and O(R D) for the norms of all R rows. Only the rows of these groups are written.
void proximity_graph(const ProximityGraphRequest& request, const Edges& edges, Monitor& monitor);

// Finds the exact nearest base rows of each query, ties by lower id. O(num_queries num_base D).
void knn(const KnnRequest& request, const Edges& edges, Monitor& monitor);

// Selects for each query the best of its own list of candidates by exact score, ties by lower id.
// O(num_queries list_size D), and O(num_base D) for the norms of all base rows.
void knn_of_lists(const KnnOfListsRequest& request, const Edges& edges, Monitor& monitor);

}  // namespace bse

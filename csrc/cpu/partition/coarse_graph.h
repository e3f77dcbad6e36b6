// Weighted graphs whose nodes are clusters of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

// Counts votes for groups in the order of their first vote. Each thread has one, with a counter per group, so that
// counting needs no hash table.
class GroupVotes {
 public:
  explicit GroupVotes(size_t num_groups) : votes_(num_groups, 0) {}

  void add(int32_t group, int32_t weight) {
    int32_t& votes = votes_[static_cast<size_t>(group)];
    if (votes == 0) groups_.push_back(group);
    votes += weight;
  }

  void clear() {
    for (const int32_t group : groups_) votes_[static_cast<size_t>(group)] = 0;
    groups_.clear();
  }

  int32_t operator[](int32_t group) const { return votes_[static_cast<size_t>(group)]; }
  const std::vector<int32_t>& groups() const { return groups_; }

 private:
  std::vector<int32_t> votes_;   // [num_groups]
  std::vector<int32_t> groups_;  // those with votes
};

struct CoarseGraph {
  std::vector<int64_t> first{0};      // [num_nodes + 1] first edge of each node
  std::vector<int32_t> target;        // [num_edges]
  std::vector<int32_t> edge_weights;  // [num_edges], or empty if all are 1
  std::vector<int32_t> weights;       // [num_nodes] number of rows of each node

  int64_t num_nodes() const { return static_cast<int64_t>(first.size()) - 1; }
  int32_t edge_weight(int64_t edge) const { return edge_weights.empty() ? 1 : edge_weights[edge]; }
};

// Returns the graph of the rows, without self-loops.
CoarseGraph graph_of_rows(const GraphView& graph, ThreadTeam& team);

// Returns the graph of the clusters. Edges inside a cluster are dropped, parallel edges become one with their total
// weight. cluster: [num_nodes], below num_clusters; votes: [num_threads], cleared, for at least num_clusters groups
CoarseGraph contracted(const CoarseGraph& graph, const std::vector<int32_t>& cluster, int64_t num_clusters,
                       std::vector<GroupVotes>& votes, ThreadTeam& team);

}  // namespace bse

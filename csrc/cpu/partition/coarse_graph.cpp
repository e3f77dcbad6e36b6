// Each thread collects the edges of a range of nodes. The ranges are joined in their order, so the result does not
// depend on the threads. O(edges) time and memory.
#include "cpu/partition/coarse_graph.h"

#include <algorithm>
#include <numeric>

namespace bse {

namespace {

constexpr int64_t kGrain = 4096;

// Edges of a range of nodes.
struct EdgeList {
  std::vector<int32_t> target, weight;
};

// Collects the edges of each node in parallel. collect(node, edges, worker) appends those of one node.
template <class Collect>
void collect_edges(CoarseGraph& graph, int64_t num_nodes, bool has_weights, ThreadTeam& team, const Collect& collect) {
  std::vector<EdgeList> lists(static_cast<size_t>((num_nodes + kGrain - 1) / kGrain));
  graph.first.assign(static_cast<size_t>(num_nodes) + 1, 0);
  team.for_ranges(num_nodes, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
    EdgeList& list = lists[begin / kGrain];
    for (int64_t node = begin; node < end; ++node) {
      const size_t before = list.target.size();
      collect(node, list, worker);
      graph.first[node + 1] = static_cast<int64_t>(list.target.size() - before);
    }
  });
  std::partial_sum(graph.first.begin(), graph.first.end(), graph.first.begin());
  graph.target.reserve(static_cast<size_t>(graph.first.back()));
  if (has_weights) graph.edge_weights.reserve(static_cast<size_t>(graph.first.back()));
  for (EdgeList& list : lists) {
    graph.target.insert(graph.target.end(), list.target.begin(), list.target.end());
    graph.edge_weights.insert(graph.edge_weights.end(), list.weight.begin(), list.weight.end());
    list = EdgeList();
  }
}

}  // namespace

CoarseGraph graph_of_rows(const GraphView& graph, ThreadTeam& team) {
  CoarseGraph rows;
  rows.weights.assign(static_cast<size_t>(graph.num_rows), 1);
  collect_edges(rows, graph.num_rows, false, team, [&](int64_t row, EdgeList& list, Worker&) {
    const uint32_t degree = graph.degree(row);
    for (uint32_t i = 0; i < degree; ++i) {
      const uint32_t other = graph.neighbor_row(row, i);
      if (other != row) list.target.push_back(static_cast<int32_t>(other));
    }
  });
  return rows;
}

CoarseGraph contracted(const CoarseGraph& graph, const std::vector<int32_t>& cluster, int64_t num_clusters,
                       std::vector<GroupVotes>& votes, ThreadTeam& team) {
  const int64_t num_nodes = graph.num_nodes();
  CoarseGraph coarse;
  coarse.weights.assign(static_cast<size_t>(num_clusters), 0);
  std::vector<int64_t> first(static_cast<size_t>(num_clusters) + 1, 0);
  for (int64_t node = 0; node < num_nodes; ++node) {
    ++first[cluster[node] + 1];
    coarse.weights[cluster[node]] += graph.weights[node];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> members(static_cast<size_t>(num_nodes));
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t node = 0; node < num_nodes; ++node) members[next[cluster[node]]++] = static_cast<int32_t>(node);

  collect_edges(coarse, num_clusters, true, team, [&](int64_t own, EdgeList& list, Worker& worker) {
    GroupVotes& found = votes[static_cast<size_t>(worker.index())];
    for (int64_t i = first[own]; i < first[own + 1]; ++i) {
      for (int64_t edge = graph.first[members[i]]; edge < graph.first[members[i] + 1]; ++edge) {
        const int32_t other = cluster[graph.target[edge]];
        if (other != own) found.add(other, graph.edge_weight(edge));
      }
    }
    for (const int32_t other : found.groups()) {
      list.target.push_back(other);
      list.weight.push_back(found[other]);
    }
    found.clear();
  });
  return coarse;
}

}  // namespace bse

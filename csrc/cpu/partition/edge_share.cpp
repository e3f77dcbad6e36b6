#include "cpu/partition/edge_share.h"

#include <algorithm>
#include <numeric>

#include "common/partition_rules.h"
#include "cpu/partition/vote_tally.h"

namespace bse {

using namespace partition_rules;

EdgeShare walk_edge_share(const PartitionRequest& request, const std::vector<uint32_t>& roots, Monitor& monitor) {
  const GraphView& graph = request.graph;
  const int64_t batch_size = std::min(request.batch_size, graph.num_rows);
  const auto num_walks = static_cast<int64_t>(roots.size());
  const std::vector<int64_t> walk_roots(roots.begin(), roots.end());
  std::vector<int64_t> walk_ids(roots.size());
  std::iota(walk_ids.begin(), walk_ids.end(), 0);
  std::vector<int32_t> nodes(static_cast<size_t>(num_walks * batch_size));
  std::vector<int64_t> unused(roots.size());

  WalkRequest walks;
  walks.graph = graph;
  walks.roots = walk_roots.data();
  walks.walk_ids = walk_ids.data();
  walks.num_walks = num_walks;
  walks.batch_size = batch_size;
  walks.restart_threshold = request.restart_threshold;
  walks.seed = request.seed;
  walks.epoch = request.epoch;
  walks.num_threads = request.num_threads;
  walk_batches(walks, {nodes.data(), unused.data(), unused.data(), unused.data(), unused.data()}, monitor);

  EdgeShare share;
  VoteTally tally(1);  // counts neighbors that are members: membership is batch 0
  std::vector<int8_t> membership(static_cast<size_t>(graph.num_rows), -1);
  const int64_t stride = (batch_size + kMaxMeasuredMembers - 1) / kMaxMeasuredMembers;
  for (int64_t walk = 0; walk < num_walks; ++walk) {
    const int32_t* members = nodes.data() + walk * batch_size;
    for (int64_t i = 0; i < batch_size; ++i) membership[members[i]] = 0;
    for (int64_t i = 0; i < batch_size; i += stride) {
      const auto row = static_cast<uint32_t>(members[i]);
      tally.ask(graph, membership.data(), row, 0, kMaxVotes);
      share.add(tally.votes(0), std::min(kMaxVotes, graph.degree(row)));
    }
    for (int64_t i = 0; i < batch_size; ++i) membership[members[i]] = -1;
  }
  return share;
}

}  // namespace bse

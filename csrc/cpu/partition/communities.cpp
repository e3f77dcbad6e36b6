// batchsampler_ext/reference/communities.py defines the result, and docs/partition.md describes the steps.
//
// Nodes propose in parallel, and read the state at the start of a round. A counting sort groups proposals by group, and
// each group sorts its own. One thread then drops proposals that do not fit. With E edges, time is O(E) per round,
// memory O(E) for all levels together, as clusters merge edges.
#include "cpu/partition/communities.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "common/hash.h"
#include "cpu/partition/coarse_graph.h"

namespace bse {

namespace {

constexpr int64_t kGrowth = 4;
constexpr int kNumClusterRounds = 12, kNumCoarseRounds = 4, kNumRowRounds = 24, kNumLastRounds = 2;
constexpr int kNumCalmRounds = 3;
constexpr int64_t kPackedShare = 16;
constexpr int kScoreShift = 20;
constexpr int32_t kNone = -1;
constexpr int64_t kGrain = 4096;  // nodes that a thread takes at a time

using Ranked = std::pair<uint64_t, int32_t>;  // (hash, node or community)

// Capacities of all groups of a round. Only the last community may be smaller than the others.
struct Capacity {
  int64_t each, last_group, last;

  int64_t operator[](int64_t group) const { return group == last_group ? last : each; }
};

class Communities {
 public:
  Communities(const CommunitiesRequest& request, Monitor& monitor)
      : size_(request.size),
        key_(request.key),
        num_rows_(request.graph.num_rows),
        num_communities_((num_rows_ + size_ - 1) / size_),
        capacity_{size_, num_communities_ - 1, num_rows_ - (num_communities_ - 1) * size_},
        team_(request.num_threads, monitor) {
    levels_.push_back(graph_of_rows(request.graph, team_));
    votes_.assign(static_cast<size_t>(team_.num_threads()), GroupVotes(static_cast<size_t>(num_rows_)));
    target_.resize(static_cast<size_t>(num_rows_));
    gain_.resize(static_cast<size_t>(num_rows_));
    own_votes_.resize(static_cast<size_t>(num_rows_));
  }

  void run(int32_t* rows) {
    std::vector<std::vector<int32_t>> clusters;  // of the nodes of each level
    for (int64_t limit = 1; limit < size_;) {
      limit = std::min(limit * kGrowth, size_);
      clusters.push_back(coarsen(limit));
    }
    clusters.push_back(coarsen(size_));  // small clusters that fit together join
    owner_.assign(static_cast<size_t>(levels_.back().num_nodes()), kNone);
    load_.assign(static_cast<size_t>(num_communities_), 0);
    pack();
    while (levels_.size() > 1) {
      refine(kNumCoarseRounds, false);
      std::vector<int32_t> owner(clusters.back().size());
      for (size_t node = 0; node < owner.size(); ++node) owner[node] = owner_[clusters.back()[node]];
      owner_ = std::move(owner);
      clusters.pop_back();
      levels_.pop_back();
    }
    refine(kNumRowRounds, true);
    fill();
    refine(kNumLastRounds, false);
    write(rows);
  }

 private:
  uint64_t next_key() { return keyed_hash(key_, ++num_keys_); }

  // The steps work on the last level.
  const CoarseGraph& graph() const { return levels_.back(); }

  // Adds the graph of the clusters as the last level. Returns the cluster of each node, numbered in the order of their
  // first nodes.
  std::vector<int32_t> coarsen(int64_t limit) {
    const int64_t num_nodes = graph().num_nodes();
    owner_.resize(static_cast<size_t>(num_nodes));
    std::iota(owner_.begin(), owner_.end(), 0);
    load_.assign(graph().weights.begin(), graph().weights.end());
    for (int round = 0; round < kNumClusterRounds; ++round) move<true>({limit, num_nodes, limit});
    std::vector<int32_t> number(static_cast<size_t>(num_nodes), kNone);
    int32_t num_clusters = 0;
    for (int32_t& owner : owner_) {
      if (number[owner] == kNone) number[owner] = num_clusters++;
      owner = number[owner];
    }
    levels_.push_back(contracted(graph(), owner_, num_clusters, votes_, team_));
    return std::move(owner_);
  }

  using Room = std::pair<int64_t, int32_t>;  // (places left, community)

  // Puts heavy clusters into communities, heaviest first. Each of the first opens a community.
  void pack() {
    const uint64_t key = next_key();
    std::vector<std::tuple<int64_t, uint64_t, int32_t>> heavy;  // (-weight, hash, node)
    for (int64_t node = 0; node < graph().num_nodes(); ++node) {
      const int64_t weight = graph().weights[node];
      if (weight > 1 && weight * kPackedShare >= size_) {
        heavy.emplace_back(-weight, keyed_hash(key, static_cast<uint64_t>(node)), static_cast<int32_t>(node));
      }
    }
    std::sort(heavy.begin(), heavy.end());
    std::set<Room> rooms;
    for (int32_t community = 0; community < num_communities_; ++community) {
      rooms.emplace(capacity_[community], community);
    }
    int32_t num_open = 0;
    for (const auto& [negative_weight, hash, node] : heavy) {
      const int64_t weight = -negative_weight;
      const bool opens = num_open < num_communities_ && weight + load_[num_open] <= capacity_[num_open];
      const int32_t community = opens ? num_open++ : place_for(node, rooms);
      if (community == kNone) continue;
      const int64_t room = capacity_[community] - load_[community];
      rooms.erase({room, community});
      rooms.emplace(room - weight, community);
      owner_[node] = community;
      load_[community] += weight;
    }
  }

  // Returns the community that most edges of a heavy cluster lead to, of those that it fits into. Ties go to the least
  // room, then to the lower number.
  int32_t place_for(int32_t node, const std::set<Room>& rooms) {
    const int64_t weight = graph().weights[node];
    GroupVotes& votes = votes_[0];
    count_votes(node, votes);
    int32_t best = kNone;
    std::tuple<int64_t, int64_t, int32_t> best_rank;
    for (const int32_t community : votes.groups()) {
      const int64_t room = capacity_[community] - load_[community];
      const std::tuple<int64_t, int64_t, int32_t> rank{-votes[community], room, community};
      if (room < weight || (best != kNone && rank > best_rank)) continue;
      best = community;
      best_rank = rank;
    }
    votes.clear();
    if (best != kNone) return best;
    const auto found = rooms.lower_bound({weight, 0});
    return found == rooms.end() ? kNone : found->second;
  }

  // Moves nodes. Every second round also unsettles rows, but not the last ones.
  void refine(int num_rounds, bool unsettles) {
    settled_.assign(static_cast<size_t>(graph().num_nodes()), 0);
    changed_.assign(static_cast<size_t>(graph().num_nodes()), 0);
    for (int round = 0; round < num_rounds; ++round) {
      round_ = static_cast<uint8_t>(round + 1);
      const bool now = unsettles && round % 2 == 1 && round + kNumCalmRounds < num_rounds;
      move<false>(capacity_, now);
      if (now) release();
    }
  }

  // Rows without an edge to a row of their community leave it.
  void release() {
    const CoarseGraph& rows = graph();
    team_.for_ranges(num_rows_, kGrain, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t row = begin; row < end; ++row) {
        bool stays = false;
        for (int64_t edge = rows.first[row]; edge < rows.first[row + 1] && !stays; ++edge) {
          stays = owner_[rows.target[edge]] == owner_[row];
        }
        target_[row] = stays ? owner_[row] : kNone;
      }
    });
    for (int64_t row = 0; row < num_rows_; ++row) {
      if (owner_[row] == target_[row]) continue;
      --load_[owner_[row]];
      leave(row);
    }
  }

  void leave(int64_t row) {
    owner_[row] = kNone;
    settled_[row] = 0;
    changed_[row] = round_;
  }

  // Gives the rows without a community to the open communities in hash order.
  void fill() {
    const uint64_t key = next_key();
    std::vector<Ranked> stuck;
    for (int64_t row = 0; row < num_rows_; ++row) {
      if (owner_[row] == kNone) stuck.emplace_back(keyed_hash(key, static_cast<uint64_t>(row)), row);
    }
    std::sort(stuck.begin(), stuck.end());
    int32_t community = 0;
    for (const auto& [hash, row] : stuck) {
      while (load_[community] == capacity_[community]) ++community;
      owner_[row] = community;
      ++load_[community];
    }
  }

  void write(int32_t* rows) {
    const uint64_t key = next_key();
    std::vector<Ranked> order;
    for (int32_t community = 0; community < num_communities_; ++community) {
      if (capacity_[community] == size_) {
        order.emplace_back(keyed_hash(key, static_cast<uint64_t>(community)), community);
      }
    }
    std::sort(order.begin(), order.end());
    std::vector<int64_t> next(static_cast<size_t>(num_communities_), static_cast<int64_t>(order.size()) * size_);
    for (size_t place = 0; place < order.size(); ++place) {
      next[order[place].second] = static_cast<int64_t>(place) * size_;
    }
    for (int64_t row = 0; row < num_rows_; ++row) rows[next[owner_[row]]++] = static_cast<int32_t>(row);
  }

  // --- moves -------------------------------------------------------------------------------------------------------
  struct Proposal {
    int64_t gain;
    uint64_t hash;
    int32_t node;
  };

  template <bool kIsClustering>
  void move(const Capacity& capacity, bool displaces = false) {
    const uint64_t key = next_key();
    team_.for_ranges(graph().num_nodes(), kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      GroupVotes& votes = votes_[static_cast<size_t>(worker.index())];
      for (int64_t node = begin; node < end; ++node) {
        propose<kIsClustering>(node, keyed_hash(key, static_cast<uint64_t>(node)), capacity, votes);
      }
    });
    group_proposals(key);
    drop_what_does_not_fit(capacity);
    if (displaces) displace(key);
    for (int64_t node = 0; node < graph().num_nodes(); ++node) {
      if (target_[node] == kNone) continue;
      owner_[node] = target_[node];
      if (!kIsClustering) changed_[node] = round_;
    }
  }

  // Whether a node proposed nothing when it last counted votes, and would count the same votes again.
  bool is_settled(int64_t node) const {
    if (settled_[node] == 0) return false;
    const CoarseGraph& nodes = graph();
    bool has_changed = false;
    for (int64_t edge = nodes.first[node]; edge < nodes.first[node + 1]; ++edge) {
      has_changed |= changed_[nodes.target[edge]] >= settled_[node];
    }
    return !has_changed;
  }

  void count_votes(int64_t node, GroupVotes& votes) const {
    const CoarseGraph& nodes = graph();
    for (int64_t edge = nodes.first[node]; edge < nodes.first[node + 1]; ++edge) {
      const int32_t group = owner_[nodes.target[edge]];
      if (group != kNone) votes.add(group, nodes.edge_weight(edge));
    }
  }

  // Whether the score of these votes is less than another one, without a division. It may be less if this is false.
  static bool is_clearly_less(int32_t votes, int64_t load, int64_t score) {
    constexpr double kScale = int64_t{1} << kScoreShift, kRounding = 1 - 1e-9;
    return votes * kScale < static_cast<double>(load) * static_cast<double>(score) * kRounding;
  }

  // Sets target_ and gain_ of a node. target_ is kNone if it proposes nothing.
  template <bool kIsClustering>
  void propose(int64_t node, uint64_t node_hash, const Capacity& capacity, GroupVotes& votes) {
    target_[node] = kNone;
    if (kIsClustering ? (node_hash & 1) != 0 : is_settled(node)) return;
    count_votes(node, votes);
    const int64_t weight = graph().weights[node];
    const auto score = [&](int32_t group, int64_t load) {
      return kIsClustering ? (int64_t{votes[group]} << kScoreShift) / load : int64_t{votes[group]};
    };
    const int32_t own = owner_[node];
    const int64_t own_score = own == kNone ? 0 : score(own, load_[own]);
    int32_t best = kNone;
    int64_t best_score = own_score;
    uint64_t best_hash = 0;
    for (const int32_t group : votes.groups()) {
      if (group == own || weight > capacity[group]) continue;
      const int64_t load = load_[group] + weight;
      if (kIsClustering && is_clearly_less(votes[group], load, best_score)) continue;
      const int64_t group_score = score(group, load);
      if (group_score < best_score) continue;
      const uint64_t hash = keyed_hash(node_hash, static_cast<uint64_t>(group));
      if (best != kNone && group_score == best_score && hash < best_hash) continue;
      best = group;
      best_score = group_score;
      best_hash = hash;
    }
    target_[node] = best;
    gain_[node] = best_score - own_score;
    if (!kIsClustering) {
      own_votes_[node] = static_cast<int32_t>(own_score);
      settled_[node] = best == kNone ? round_ : 0;
    }
    votes.clear();
  }

  // Lists the proposals to each group, best first: those to group g begin at first_[g].
  void group_proposals(uint64_t key) {
    const size_t num_groups = load_.size();
    const int64_t num_nodes = graph().num_nodes();
    first_.assign(num_groups + 1, 0);
    for (int64_t node = 0; node < num_nodes; ++node) {
      if (target_[node] != kNone) ++first_[target_[node] + 1];
    }
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    proposals_.resize(static_cast<size_t>(first_.back()));
    end_.assign(first_.begin(), first_.end() - 1);
    for (int64_t node = 0; node < num_nodes; ++node) {
      if (target_[node] == kNone) continue;
      const uint64_t node_hash = keyed_hash(key, static_cast<uint64_t>(node));
      proposals_[end_[target_[node]]++] = {gain_[node], keyed_hash(node_hash, ~uint64_t{0}),
                                           static_cast<int32_t>(node)};
    }
    team_.for_ranges(static_cast<int64_t>(num_groups), kGrain, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t group = begin; group < end; ++group) {
        std::sort(proposals_.begin() + first_[group], proposals_.begin() + end_[group],
                  [](const Proposal& a, const Proposal& b) {
                    return std::tie(b.gain, a.hash, a.node) < std::tie(a.gain, b.hash, b.node);
                  });
      }
    });
  }

  // Drops the worst proposals to each group until those left fit together. The result does not depend on the order.
  // Sets the target_ of nodes that stay to kNone, and load_ to the loads after the moves.
  void drop_what_does_not_fit(const Capacity& capacity) {
    for (const Proposal& proposal : proposals_) {
      const int32_t weight = graph().weights[proposal.node], own = owner_[proposal.node];
      load_[target_[proposal.node]] += weight;
      if (own != kNone) load_[own] -= weight;
    }
    std::vector<int32_t> full;
    for (size_t group = 0; group < load_.size(); ++group) {
      if (load_[group] > capacity[static_cast<int64_t>(group)]) full.push_back(static_cast<int32_t>(group));
    }
    while (!full.empty()) {
      const int32_t group = full.back();
      full.pop_back();
      while (load_[group] > capacity[group]) {
        const int32_t node = proposals_[--end_[group]].node;
        const int32_t weight = graph().weights[node], own = owner_[node];
        target_[node] = kNone;
        load_[group] -= weight;
        if (own == kNone) continue;
        const bool was_full = load_[own] > capacity[own];
        load_[own] += weight;
        if (!was_full && load_[own] > capacity[own]) full.push_back(own);
      }
    }
  }

  // Rows whose proposals were dropped displace members that stay: the best proposal the member with the fewest votes
  // for the group, and so on, while the gain is larger than these votes. Displaced rows are in no group.
  void displace(uint64_t key) {
    const size_t num_groups = load_.size();
    std::vector<int64_t> first(num_groups + 1, 0);
    for (int64_t row = 0; row < num_rows_; ++row) {
      if (stays_in_full_group(row)) ++first[owner_[row] + 1];
    }
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<Proposal> staying(static_cast<size_t>(first.back()));  // gain: votes of the row for its own group
    std::vector<int64_t> end(first.begin(), first.end() - 1);
    for (int64_t row = 0; row < num_rows_; ++row) {
      if (stays_in_full_group(row)) staying[end[owner_[row]]++].node = static_cast<int32_t>(row);
    }
    std::vector<int64_t> num_displaced(num_groups, 0);
    team_.for_ranges(static_cast<int64_t>(num_groups), 64, [&](int64_t begin, int64_t stop, Worker&) {
      for (int64_t group = begin; group < stop; ++group) {
        for (int64_t i = first[group]; i < end[group]; ++i) {
          Proposal& member = staying[i];
          member.hash = keyed_hash(keyed_hash(key, static_cast<uint64_t>(member.node)), ~uint64_t{0});
          member.gain = own_votes_[member.node];
        }
        std::sort(staying.begin() + first[group], staying.begin() + end[group],
                  [](const Proposal& a, const Proposal& b) {
                    return std::tie(a.gain, a.hash, a.node) < std::tie(b.gain, b.hash, b.node);
                  });
        int64_t& count = num_displaced[group];
        const int64_t most = std::min(first_[group + 1] - end_[group], end[group] - first[group]);
        while (count < most && proposals_[end_[group] + count].gain > staying[first[group] + count].gain) ++count;
      }
    });
    for (size_t group = 0; group < num_groups; ++group) {
      for (int64_t i = 0; i < num_displaced[group]; ++i) {
        target_[proposals_[end_[group] + i].node] = static_cast<int32_t>(group);
      }
    }
    for (size_t group = 0; group < num_groups; ++group) {
      for (int64_t i = 0; i < num_displaced[group]; ++i) leave(staying[first[group] + i].node);
    }
    load_.assign(num_groups, 0);
    for (int64_t row = 0; row < num_rows_; ++row) {
      const int32_t group = target_[row] != kNone ? target_[row] : owner_[row];
      if (group != kNone) ++load_[group];
    }
  }

  bool stays_in_full_group(int64_t row) const {
    const int32_t own = owner_[row];
    return own != kNone && target_[row] == kNone && end_[own] < first_[own + 1];
  }

  const int64_t size_;
  const uint64_t key_;
  const int64_t num_rows_, num_communities_;
  const Capacity capacity_;
  ThreadTeam team_;
  uint64_t num_keys_ = 0;
  std::vector<CoarseGraph> levels_;  // the rows, then coarser and coarser graphs
  std::vector<int32_t> owner_;       // [num_nodes] group of each node, kNone if it has none
  std::vector<int64_t> load_;        // [num_groups] rows of each group
  std::vector<int32_t> target_;      // [num_nodes] group that a node moves to in this round, or kNone
  std::vector<int64_t> gain_;        // [num_nodes] of the move
  std::vector<int32_t> own_votes_;   // [num_nodes] votes for the own community when they were last counted
  // Rounds of a refinement, from 1 on. A settled node skips rounds until a neighbor changes.
  uint8_t round_ = 0;
  std::vector<uint8_t> settled_, changed_;  // [num_nodes] rounds in which it last settled and changed its group, or 0
  std::vector<int64_t> first_, end_;        // [num_groups] range of the proposals to each group
  std::vector<Proposal> proposals_;         // grouped, best first
  std::vector<GroupVotes> votes_;           // [num_threads]
};

}  // namespace

void communities(const CommunitiesRequest& request, int32_t* rows, Monitor& monitor) {
  Communities(request, monitor).run(rows);
}

}  // namespace bse

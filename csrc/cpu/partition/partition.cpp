// Partition epochs on the CPU: the engine for csrc/common/partition_schedule.h, which defines the result.
//
// Rows vote in parallel, and all decisions of a round read the state at its start. A counting sort groups the proposals
// by batch, and each batch selects its best. O(R) memory, O(R K) per round.

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "common/hash.h"
#include "common/partition_schedule.h"
#include "common/permutation.h"
#include "cpu/partition/edge_share.h"
#include "cpu/partition/proposals.h"
#include "cpu/partition/vote_tally.h"
#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/walk/batch_walks.h"

namespace bse {

namespace {

using namespace partition_rules;

// Rows that a thread takes at a time. With fewer, waking another thread costs more than it saves, at about 20 parallel
// loops per partition.
constexpr int64_t kGrain = 4096;
// Distance in rows from the row that votes to the row that is prefetched.
constexpr int64_t kAhead = 4;

// Owner: a signed type for numbers of batches. Most of the time goes into random reads of owners, and narrow ones stay
// in smaller caches.
template <class Owner>
class Partition {
 public:
  Partition(const PartitionRequest& request, Monitor& monitor)
      : request_(request),
        graph_(request.graph),
        sizes_(graph_.num_rows, request.batch_size, request.drop_last),
        monitor_(monitor),
        team_(request.num_threads, monitor),
        order_(static_cast<uint32_t>(graph_.num_rows), request.seed, Purpose::kRootOrder, request.epoch, 0),
        owner_(graph_.num_rows),
        former_(graph_.num_rows),
        proposals_(graph_.num_rows),
        groups_(graph_.num_rows, sizes_.num_batches) {
    const int64_t num_rows = graph_.num_rows;
    prefer_huge_pages(owner_.data(), num_rows * static_cast<int64_t>(sizeof(Owner)));
    prefer_huge_pages(proposals_.data(), num_rows * static_cast<int64_t>(sizeof(Proposal)));
    std::fill_n(owner_.data(), num_rows, static_cast<Owner>(kUnassigned));
    for (const uint32_t row : in_order(sizes_.num_assigned, num_rows)) owner_[row] = kLeftOut;
    for (int64_t batch = 0; batch < sizes_.num_batches; ++batch) free_.push_back(sizes_.capacity(batch));
    room_ = free_;
    filled_.assign(static_cast<size_t>(num_rows), 0);
    is_stranded_.assign(static_cast<size_t>(num_rows), 0);
    for (int thread = 0; thread < team_.num_threads(); ++thread) tallies_.emplace_back(sizes_.num_batches);
    refresh_unassigned();
  }

  // Writes the batches and returns the number of random fills.
  int64_t run(int32_t* nodes) {
    PartitionSchedule<Partition>(*this, sizes_, request_.hardness).run();
    write(nodes);
    return std::count(filled_.begin(), filled_.end(), 1);
  }

 private:
  friend class PartitionSchedule<Partition>;

  int64_t num_unassigned() const { return static_cast<int64_t>(unassigned_.size()); }

  uint64_t key(uint32_t stage, uint32_t index) const {
    return hash_key(request_.seed, Purpose::kPartitionHash, request_.epoch, stage, index);
  }

  // Returns the rows at positions [begin, end) of the keyed permutation: roots come first, rows that drop_last leaves
  // out are at the end.
  std::vector<uint32_t> in_order(int64_t begin, int64_t end) {
    std::vector<uint32_t> rows(static_cast<size_t>(end - begin));
    team_.for_ranges(end - begin, kGrain, [&](int64_t first, int64_t last, Worker&) {
      order_.write(static_cast<uint32_t>(begin + first), last - first, rows.data() + first);
    });
    return rows;
  }

  void refresh_unassigned() {
    unassigned_.resize(static_cast<size_t>(graph_.num_rows));
    std::iota(unassigned_.begin(), unassigned_.end(), 0);
    drop_assigned();
  }

  void drop_assigned() {
    size_t num_left = 0;
    for (const uint32_t row : unassigned_) {  // without a branch, which would be unpredictable
      unassigned_[num_left] = row;
      num_left += owner_[row] == kUnassigned;
    }
    unassigned_.resize(num_left);
  }

  std::vector<int64_t> all_batches() const {
    std::vector<int64_t> batches(free_.size());
    std::iota(batches.begin(), batches.end(), 0);
    return batches;
  }

  // Returns the `count` batches with the most free places, ties by lower number.
  std::vector<int64_t> emptiest(std::vector<int64_t> batches, int64_t count) const {
    std::sort(batches.begin(), batches.end(),
              [this](int64_t a, int64_t b) { return free_[a] != free_[b] ? free_[a] > free_[b] : a < b; });
    if (static_cast<int64_t>(batches.size()) > count) batches.resize(static_cast<size_t>(count));
    return batches;
  }

  void dissolve(const std::vector<int64_t>& batches) {
    std::vector<char> dissolved(free_.size(), 0);
    for (const int64_t batch : batches) {
      dissolved[batch] = 1;
      free_[batch] = sizes_.capacity(batch);
    }
    for (int64_t row = 0; row < graph_.num_rows; ++row) {
      if (owner_[row] >= 0 && dissolved[owner_[row]]) owner_[row] = kUnassigned;
    }
    refresh_unassigned();
  }

  std::vector<std::pair<uint64_t, uint32_t>> hashed_unassigned(uint64_t hash_key) const {
    std::vector<std::pair<uint64_t, uint32_t>> hashed(unassigned_.size());
    for (size_t i = 0; i < hashed.size(); ++i) hashed[i] = {keyed_hash(hash_key, unassigned_[i]), unassigned_[i]};
    return hashed;
  }

  // Returns distinct random unassigned rows.
  std::vector<uint32_t> pick_roots(int64_t count, uint32_t stage) const {
    auto hashed = hashed_unassigned(key(stage, kPickRows));
    std::partial_sort(hashed.begin(), hashed.begin() + count, hashed.end());
    std::vector<uint32_t> roots(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) roots[i] = hashed[i].second;
    return roots;
  }

  // --- seeds -------------------------------------------------------------------------------------------------------
  void seed_all() { seed_batches(all_batches(), in_order(0, sizes_.num_batches), 0); }

  void seed_dissolved(int64_t num_batches, uint32_t stage) {
    const std::vector<int64_t> batches = emptiest(all_batches(), num_batches);
    dissolve(batches);
    seed_batches(batches, pick_roots(static_cast<int64_t>(batches.size()), stage), stage);
  }

  void seed_emptiest(int64_t num_batches, uint32_t stage) {
    std::vector<int64_t> open = all_batches();
    open.erase(std::remove_if(open.begin(), open.end(), [this](int64_t b) { return free_[b] == 0; }), open.end());
    const std::vector<int64_t> batches = emptiest(std::move(open), num_batches);
    seed_batches(batches, pick_roots(static_cast<int64_t>(batches.size()), stage), stage);
  }

  struct Claim {
    uint64_t rank;
    uint32_t row;
  };

  void seed_batches(const std::vector<int64_t>& batches, const std::vector<uint32_t>& roots, uint32_t stage) {
    const uint64_t claim_key = key(stage, kClaim);
    std::vector<uint32_t> walked(batches.size() * kSeedSize);
    std::vector<uint32_t> num_walked(batches.size());
    team_.for_ranges(static_cast<int64_t>(batches.size()), 32, [&](int64_t begin, int64_t end, Worker& worker) {
      for (int64_t i = begin; i < end && !worker.should_stop(); ++i) {
        num_walked[i] = walk_from(roots[i], static_cast<uint32_t>(batches[i]), stage, &walked[i * kSeedSize]);
      }
    });
    std::vector<Claim> claims;
    for (size_t i = 0; i < batches.size(); ++i) {
      for (uint32_t position = 0; position < num_walked[i]; ++position) {
        const uint32_t row = walked[i * kSeedSize + position];
        claims.push_back({seed_claim(claim_key, position, row, static_cast<uint32_t>(batches[i])), row});
      }
    }
    std::sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.rank < b.rank; });
    for (const Claim& claim : claims) {  // the smallest claim to a row comes first and gets it
      const int32_t batch = claiming_batch(claim.rank);
      if (owner_[claim.row] == kUnassigned) {
        owner_[claim.row] = static_cast<Owner>(batch);
        --free_[batch];
      }
    }
    drop_assigned();
  }

  uint32_t walk_from(uint32_t root, uint32_t batch, uint32_t stage, uint32_t* found) const {
    const SegmentWords words(request_.seed, Purpose::kPartitionWalk, request_.epoch, batch, stage);
    const auto limit = static_cast<uint32_t>(std::min<int64_t>(kSeedSize, free_[batch]));
    return seed_walk(
        words, root, limit, request_.restart_threshold, [this](uint32_t row) { return graph_.degree(row); },
        [this](uint32_t row, uint32_t i) { return graph_.neighbor_row(row, i); },
        [this](uint32_t row) { return owner_[row] == kUnassigned; }, found);
  }

  // --- votes -------------------------------------------------------------------------------------------------------
  void vote(const VoteRound& round) {
    const uint64_t round_key = key(round.stage, kFirstRound + round.index);
    const int64_t num_rows = num_unassigned();
    for (size_t batch = 0; batch < free_.size(); ++batch) {
      room_[batch] = round.is_growing ? room_in_round(sizes_.capacity(batch), free_[batch], round.index) : free_[batch];
    }
    for (VoteTally& tally : tallies_) tally.open_those_with(room_.data());
    team_.for_ranges(num_rows, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      VoteTally& tally = tallies_[static_cast<size_t>(worker.index())];
      for (int64_t i = begin; i < end; ++i) {
        if (i + kAhead < end) VoteTally::prefetch(graph_, unassigned_[i + kAhead]);
        proposals_[i] = propose(unassigned_[i], round_key, round.max_votes, tally);
      }
    });
    groups_.group(proposals_.data(), num_rows, team_);
    brought_much_ = brings_much(groups_.num_proposals(), num_rows);
    if (groups_.num_proposals() == 0) return;
    team_.for_ranges(sizes_.num_batches, 64, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t batch = begin; batch < end; ++batch) accept_best(batch);
    });
    drop_assigned();
  }

  bool should_continue() const { return brought_much_; }

  // Proposes to the batch with room that most of the row's neighbors are in, ties by hash.
  Proposal propose(uint32_t row, uint64_t round_key, uint32_t max_votes, VoteTally& tally) {
    const uint64_t row_hash = keyed_hash(round_key, row);
    tally.ask(graph_, owner_.data(), row, static_cast<uint32_t>(row_hash >> 32),
              num_votes(is_stranded_[row], max_votes));
    const uint32_t most = tally.find_leaders();
    is_stranded_[row] = most == 0;
    if (most == 0) return {0, row, kUnassigned};
    const int32_t* const leaders = tally.leaders();
    const int64_t num_leaders = tally.num_leaders();
    int64_t best = 0;
    uint64_t best_hash = 0;
    for (int64_t i = 0; i < num_leaders && num_leaders > 1; ++i) {
      const uint64_t hash = choice_hash(row_hash, leaders[i]);
      const bool is_better = hash > best_hash;
      best = is_better ? i : best;
      best_hash = is_better ? hash : best_hash;
    }
    return {proposal_rank(row_hash, most), row, leaders[best]};
  }

  void accept_best(int64_t batch) {
    ProposalGroups::Member* const begin = groups_.begin(batch);
    ProposalGroups::Member* const end = groups_.end(batch);
    const int64_t num_accepted = std::min<int64_t>(room_[batch], end - begin);
    if (num_accepted < end - begin) std::nth_element(begin, begin + num_accepted, end);
    for (int64_t i = 0; i < num_accepted; ++i) {
      owner_[begin[i].second] = static_cast<Owner>(batch);
      filled_[begin[i].second] = 0;
    }
    free_[batch] -= num_accepted;
  }

  // --- adjusting ---------------------------------------------------------------------------------------------------
  int64_t edge_share_goal() {
    const EdgeShare walks = walk_edge_share(request_, in_order(0, num_measured_walks(sizes_)), monitor_);
    return partition_rules::edge_share_goal(walks.beyond_random(request_.batch_size, graph_.num_rows),
                                            request_.hardness);
  }

  // Measures the last rows of the order, because many of the first are roots.
  int64_t edge_share() {
    if (measured_.empty()) {
      measured_ = in_order(std::max<int64_t>(0, sizes_.num_assigned - kNumMeasured), sizes_.num_assigned);
    }
    EdgeShare share;
    VoteTally& tally = tallies_[0];
    for (size_t i = 0; i < measured_.size(); ++i) {
      if (i + kAhead < measured_.size()) VoteTally::prefetch(graph_, measured_[i + kAhead]);
      const uint32_t row = measured_[i];
      tally.ask(graph_, owner_.data(), row, 0, kMaxVotes);
      share.add(tally.votes(owner_[row]), std::min(kMaxVotes, graph_.degree(row)));
    }
    return share.beyond_random(request_.batch_size, graph_.num_rows);
  }

  // Ejects, from a random quarter of the rows, those with more neighbors in another batch than in their own.
  void eject_misplaced(uint32_t stage) {
    for (VoteTally& tally : tallies_) tally.open_all();
    eject_if(stage, kHardenMask, [this](uint32_t row, uint64_t row_hash, VoteTally& tally) {
      tally.ask(graph_, owner_.data(), row, static_cast<uint32_t>(row_hash >> 32), kMaxVotes);
      return tally.most_votes() > tally.votes(owner_[row]);
    });
  }

  // Ejects a random eighth of the rows.
  void leave(uint32_t stage) {
    eject_if(stage, kSoftenMask, [](uint32_t, uint64_t, VoteTally&) { return true; });
  }

  // Ejects each assigned row whose hash has no bit of the mask set and for which leaves(row, row_hash, tally) is true.
  template <class Leaves>
  void eject_if(uint32_t stage, uint64_t mask, const Leaves& leaves) {
    const uint64_t stage_key = key(stage, kPickRows);
    std::vector<std::vector<uint32_t>> leaving(static_cast<size_t>((graph_.num_rows + kGrain - 1) / kGrain));
    team_.for_ranges(graph_.num_rows, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      VoteTally& tally = tallies_[static_cast<size_t>(worker.index())];
      std::vector<uint32_t>& rows = leaving[begin / kGrain];
      rows.resize(static_cast<size_t>(end - begin));
      size_t num_picked = 0, num_leaving = 0;
      for (int64_t row = begin; row < end; ++row) {
        rows[num_picked] = static_cast<uint32_t>(row);
        num_picked += (keyed_hash(stage_key, static_cast<uint64_t>(row)) & mask) == 0 && owner_[row] >= 0;
      }
      for (size_t i = 0; i < num_picked; ++i) {
        if (i + kAhead < num_picked) VoteTally::prefetch(graph_, rows[i + kAhead]);
        const uint32_t row = rows[i];
        rows[num_leaving] = row;
        num_leaving += leaves(row, keyed_hash(stage_key, row), tally);
      }
      rows.resize(num_leaving);
    });
    for (const std::vector<uint32_t>& rows : leaving) {
      for (const uint32_t row : rows) {
        former_[row] = owner_[row];
        ++free_[former_[row]];
        owner_[row] = kUnassigned;
        unassigned_.push_back(row);
      }
    }
  }

  // Returns rows that found no batch to the one they left, while it has room; lower rows first.
  void return_unplaced() {
    for (const uint32_t row : unassigned_) {
      if (free_[former_[row]] > 0) {
        owner_[row] = former_[row];
        --free_[former_[row]];
      }
    }
    drop_assigned();
  }

  // --- end ---------------------------------------------------------------------------------------------------------
  // Gives the free places to the unassigned rows in hash order.
  void fill(uint32_t stage) {
    auto hashed = hashed_unassigned(key(stage, kFill));
    std::sort(hashed.begin(), hashed.end());
    auto next = hashed.begin();
    for (size_t batch = 0; batch < free_.size(); ++batch) {
      for (; free_[batch] > 0; --free_[batch], ++next) {
        owner_[next->second] = static_cast<Owner>(batch);
        filled_[next->second] = 1;
      }
    }
    unassigned_.clear();
  }

  // Writes the full batches in hash order, then the ragged one; rows of a batch ascend.
  void write(int32_t* nodes) const {
    const int64_t num_full = sizes_.num_full();
    std::vector<std::pair<uint64_t, int64_t>> shuffled(static_cast<size_t>(num_full));
    const uint64_t order_key = key(kFillStage, kOrder);
    for (int64_t batch = 0; batch < num_full; ++batch) {
      shuffled[batch] = {keyed_hash(order_key, static_cast<uint64_t>(batch)), batch};
    }
    std::sort(shuffled.begin(), shuffled.end());
    std::vector<int64_t> next(free_.size());
    for (int64_t place = 0; place < num_full; ++place) next[shuffled[place].second] = place * request_.batch_size;
    if (num_full < static_cast<int64_t>(free_.size())) next.back() = num_full * request_.batch_size;
    for (int64_t row = 0; row < graph_.num_rows; ++row) {
      if (owner_[row] >= 0) nodes[next[owner_[row]]++] = static_cast<int32_t>(row);
    }
  }

  const PartitionRequest& request_;
  const GraphView graph_;
  const PartitionSizes sizes_;
  Monitor& monitor_;
  ThreadTeam team_;
  const KeyedPermutation order_;
  AlignedBuffer<Owner> owner_;         // [R] batch, kUnassigned or kLeftOut
  AlignedBuffer<Owner> former_;        // [R] batch that a row left last
  std::vector<int64_t> free_;          // [num_batches] places left
  std::vector<int64_t> room_;          // [num_batches] places offered in this round
  std::vector<uint32_t> unassigned_;   // rows, ascending
  std::vector<char> filled_;           // [R] 1 if the row is a random fill
  std::vector<char> is_stranded_;      // [R] 1 if the row found no batch in its last vote
  std::vector<uint32_t> measured_;     // rows whose edge share is measured
  std::vector<VoteTally> tallies_;     // [num_threads]
  bool brought_much_ = false;          // whether many rows found a batch to propose to in the last vote
  AlignedBuffer<Proposal> proposals_;  // scratch of vote(), by row
  ProposalGroups groups_;              // likewise
};

}  // namespace

int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor) {
  const PartitionSizes sizes(request.graph.num_rows, request.batch_size, request.drop_last);
  if (sizes.num_batches <= std::numeric_limits<int16_t>::max()) return Partition<int16_t>(request, monitor).run(nodes);
  return Partition<int32_t>(request, monitor).run(nodes);
}

}  // namespace bse

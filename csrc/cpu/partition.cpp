// Partition epochs: every row in exactly one batch, and no batch left random.
//
// Walking over what is still unclaimed starts hard and ends random. Here short walks seed every batch at once, and
// batches then grow by capacity-limited votes of out-neighbours:
//   1. seeds     each batch walks with restart from its root until it has kSeedSize unassigned rows or
//                kMaxFruitless steps in vain; a row claimed twice goes to the smaller (rank in the walk, hash, batch)
//   2. votes     each unassigned row asks its out-neighbours (kMaxVotes consecutive ones at most; kFewVotes if it found
//                no batch when it asked last) and proposes to the batch with room that most of them are in; each batch
//                takes its best proposals up to its room, which widens over kNumGrowthRounds rounds from kSeedSize to
//                all places; until a round brings little
//   3. dissolve  twice, the emptiest batches are emptied and rooted anew among the unassigned; 1 and 2 again
//   4. teleport  while more than R / 500 rows are left, the emptiest open batches seed and grow from new roots
//   5. fill      what is left, in hash order
//   6. adjust    to a goal for the link share: the share of a row's neighbours that are in its batch. Independent walks
//                on the same graph say what it should be. While it is lower, batches harden: of a random quarter,
//                those rows leave that have more neighbours in another batch; they vote again, and who finds no room
//                goes back. While it is higher, batches soften: a random eighth leaves and asks kSoftVotes neighbours.
//                Where a few hubs are in everybody's list (raw pixels, sentences) a single vote says little, and
//                hardening is what makes batches hard; on small or tight graphs, votes are harder than walks.
// Then the full batches are put into hash order. Integers and hashes of (seed, epoch, stage, row) only; each round
// reads the state at its start: the result does not depend on threads. O(R) memory, O(R K) a round. Oracle:
// batchsampler_ext/reference_partition.py.

#include <algorithm>
#include <numeric>
#include <vector>

#include "../common/hash.h"
#include "../common/permutation.h"
#include "../common/walk.h"
#include "batch_walks.h"
#include "link_share.h"
#include "vote_tally.h"

namespace bse {

namespace {

constexpr uint32_t kSeedSize = 4, kMaxFruitless = 64;
constexpr uint32_t kMaxVotes = VoteTally::kMaxVotes, kFewVotes = 16, kSoftVotes = 2;
constexpr uint32_t kNumVoteRounds = 12, kNumGrowthRounds = 4, kNumDissolves = 2;
constexpr uint32_t kNumTeleports = 32, kNumTeleportRounds = 6, kNumAdjustRounds = 6;
constexpr uint32_t kMaxHardenings = 2, kMaxSoftenings = 24;
constexpr int64_t kHardlyLinked = LinkShare::kWhole / 10;
constexpr int64_t kFewProposals = 32;  // a round in which fewer than one row of these proposes brings little
constexpr uint32_t kHardenMask = 3, kSoftenMask = 7;  // a row takes part if these bits of its hash are 0
constexpr int64_t kNumMeasured = 4096;                // rows that the link share is measured at

// Which hash of a stage; stages are numbered in the order they run in.
constexpr uint32_t kPickRows = 0, kClaim = 1, kFill = 2, kOrder = 3, kFirstRound = 4;
constexpr uint32_t kFillStage = 1 + kNumDissolves + kNumTeleports;

constexpr int32_t kUnassigned = -1, kLeftOut = -2;

// Rows that one thread takes at a time. Fewer are not worth waking another one, at about 20 phases a partition.
constexpr int64_t kGrain = 4096;
// Rows between the one that is asked and the one that is fetched.
constexpr int64_t kAhead = 4;

class Partition {
 public:
  Partition(const PartitionRequest& request, Monitor& monitor)
      : request_(request), graph_(request.graph), monitor_(monitor), team_(request.num_threads, monitor) {
    const int64_t num_rows = graph_.num_rows;
    order_.resize(static_cast<size_t>(num_rows));
    const KeyedPermutation permutation(static_cast<uint32_t>(num_rows), request.seed, Purpose::kRootOrder,
                                       request.epoch, 0);
    team_.for_ranges(num_rows, kGrain, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t i = begin; i < end; ++i) order_[i] = permutation(static_cast<uint32_t>(i));
    });
    num_assigned_ = num_rows - (request.drop_last ? num_rows % request.batch_size : 0);
    owner_.assign(static_cast<size_t>(num_rows), kUnassigned);
    for (int64_t i = num_assigned_; i < num_rows; ++i) owner_[order_[i]] = kLeftOut;
    for (int64_t first = 0; first < num_assigned_; first += request.batch_size) {
      free_.push_back(std::min(request.batch_size, num_assigned_ - first));
    }
    capacity_ = room_ = free_;
    filled_.assign(static_cast<size_t>(num_rows), 0);
    is_stranded_.assign(static_cast<size_t>(num_rows), 0);
    tallies_.assign(static_cast<size_t>(team_.num_threads()), VoteTally(free_.size()));
    refresh_unassigned();
  }

  int64_t run(int32_t* nodes) {
    const auto num_batches = static_cast<int64_t>(free_.size());
    std::vector<int64_t> all_batches(free_.size());
    std::iota(all_batches.begin(), all_batches.end(), 0);
    grow(all_batches, {order_.begin(), order_.begin() + num_batches}, 0, kNumVoteRounds);

    uint32_t stage = 1;
    for (; stage < 1 + kNumDissolves; ++stage) {
      const auto num_stuck = static_cast<int64_t>(unassigned_.size());
      if (num_stuck == 0) continue;
      const std::vector<int64_t> batches = emptiest(all_batches, std::max<int64_t>(1, num_stuck / request_.batch_size));
      dissolve(batches);
      grow(batches, pick_roots(static_cast<int64_t>(batches.size()), stage), stage, kNumVoteRounds);
    }
    for (; stage < kFillStage; ++stage) {
      const auto num_stuck = static_cast<int64_t>(unassigned_.size());
      if (num_stuck * 500 <= num_assigned_) break;
      std::vector<int64_t> open;
      std::copy_if(all_batches.begin(), all_batches.end(), std::back_inserter(open),
                   [this](int64_t b) { return free_[b] > 0; });
      const std::vector<int64_t> batches = emptiest(std::move(open), std::max<int64_t>(1, num_stuck / 8));
      grow(batches, pick_roots(static_cast<int64_t>(batches.size()), stage), stage, kNumTeleportRounds);
      if ((num_stuck - static_cast<int64_t>(unassigned_.size())) * 50 < num_stuck) break;
    }
    fill(stage = kFillStage);
    adjust(stage);
    write(nodes);
    return std::count(filled_.begin(), filled_.end(), 1);
  }

 private:
  uint64_t key(uint32_t stage, uint32_t index) const {
    return hash_key(request_.seed, Purpose::kPartitionHash, request_.epoch, stage, index);
  }

  void refresh_unassigned() {
    unassigned_.clear();
    for (size_t row = 0; row < owner_.size(); ++row) {
      if (owner_[row] == kUnassigned) unassigned_.push_back(static_cast<uint32_t>(row));
    }
  }

  // The `count` batches with the most free places, ties by lower number.
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
      free_[batch] = capacity_[batch];
    }
    for (int32_t& owner : owner_) {
      if (owner >= 0 && dissolved[owner]) owner = kUnassigned;
    }
    refresh_unassigned();
  }

  std::vector<std::pair<uint64_t, uint32_t>> hashed_unassigned(uint64_t hash_key) const {
    std::vector<std::pair<uint64_t, uint32_t>> hashed(unassigned_.size());
    for (size_t i = 0; i < hashed.size(); ++i) hashed[i] = {keyed_hash(hash_key, unassigned_[i]), unassigned_[i]};
    return hashed;
  }

  // Distinct unassigned rows, at random.
  std::vector<uint32_t> pick_roots(int64_t count, uint32_t stage) const {
    auto hashed = hashed_unassigned(key(stage, kPickRows));
    std::partial_sort(hashed.begin(), hashed.begin() + count, hashed.end());
    std::vector<uint32_t> roots(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) roots[i] = hashed[i].second;
    return roots;
  }

  void grow(const std::vector<int64_t>& batches, const std::vector<uint32_t>& roots, uint32_t stage,
            uint32_t num_rounds) {
    seed_batches(batches, roots, stage);
    for (uint32_t round = 0; round < num_rounds; ++round) {
      const bool is_growing = round + 1 < kNumGrowthRounds;
      for (size_t batch = 0; batch < free_.size(); ++batch) {
        const int64_t size = capacity_[batch] - free_[batch];
        const int64_t widening = std::max<int64_t>(0, capacity_[batch] - kSeedSize);
        const int64_t target = kSeedSize + widening * (round + 1) / kNumGrowthRounds;
        room_[batch] = is_growing ? std::min(free_[batch], std::max<int64_t>(0, target - size)) : free_[batch];
      }
      if (!vote_round(key(stage, kFirstRound + round), kMaxVotes) && !is_growing) break;
    }
  }

  // --- seeds -------------------------------------------------------------------------------------------------------
  struct Claim {
    uint64_t rank;  // position in the walk << 56 | 24 bits of hash << 32 | batch
    uint32_t row;
  };

  void seed_batches(const std::vector<int64_t>& batches, const std::vector<uint32_t>& roots, uint32_t stage) {
    const uint64_t claim_key = key(stage, kClaim);
    std::vector<uint32_t> walked(batches.size() * kSeedSize);
    std::vector<uint32_t> num_walked(batches.size());
    team_.for_ranges(static_cast<int64_t>(batches.size()), 32, [&](int64_t begin, int64_t end, Worker& worker) {
      for (int64_t i = begin; i < end && !worker.should_stop(); ++i) {
        num_walked[i] = seed_walk(static_cast<uint32_t>(batches[i]), roots[i], stage, &walked[i * kSeedSize]);
      }
    });
    std::vector<Claim> claims;
    for (size_t i = 0; i < batches.size(); ++i) {
      for (uint32_t rank = 0; rank < num_walked[i]; ++rank) {
        const uint32_t row = walked[i * kSeedSize + rank];
        const uint64_t hash = keyed_hash(claim_key, uint64_t{row} << 32 | static_cast<uint64_t>(batches[i]));
        claims.push_back({uint64_t{rank} << 56 | hash >> 40 << 32 | static_cast<uint64_t>(batches[i]), row});
      }
    }
    std::sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.rank < b.rank; });
    for (const Claim& claim : claims) {  // the smallest rank comes first and takes the row
      const auto batch = static_cast<int32_t>(claim.rank & 0xFFFFFFFFu);
      if (owner_[claim.row] == kUnassigned) {
        owner_[claim.row] = batch;
        --free_[batch];
      }
    }
    drop_assigned();
  }

  // Unassigned rows in the order a walk with restart meets them, the root first.
  uint32_t seed_walk(uint32_t batch, uint32_t root, uint32_t stage, uint32_t* found) const {
    SegmentWords words(request_.seed, Purpose::kPartitionWalk, request_.epoch, batch, stage);
    const auto limit = static_cast<uint32_t>(std::min<int64_t>(kSeedSize, free_[batch]));
    uint32_t num_found = 1, row = root, num_fruitless = 0;
    found[0] = root;
    for (uint32_t step = 0; num_found < limit && num_fruitless < kMaxFruitless; ++step) {
      words.load(step);
      if (words.restart_word() < request_.restart_threshold || graph_.degree(row) == 0) row = root;
      ++num_fruitless;
      const uint32_t degree = graph_.degree(row);
      if (degree == 0) continue;
      row = graph_.neighbor_row(row, mulhi(words.neighbor_word(), degree));
      if (owner_[row] == kUnassigned && std::find(found, found + num_found, row) == found + num_found) {
        found[num_found++] = row;
        num_fruitless = 0;
      }
    }
    return num_found;
  }

  // --- votes -------------------------------------------------------------------------------------------------------
  struct Proposal {
    uint64_t rank;  // (kMaxVotes - votes) << 56 | hash: a smaller rank is a better proposal
    uint32_t row;
    int32_t batch;  // or kUnassigned
  };

  // False if few rows had a batch to propose to.
  bool vote_round(uint64_t round_key, uint32_t max_votes) {
    const auto num_rows = static_cast<int64_t>(unassigned_.size());
    proposals_.resize(unassigned_.size());
    team_.for_ranges(num_rows, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      VoteTally& tally = tallies_[static_cast<size_t>(worker.index())];
      for (int64_t i = begin; i < end; ++i) {
        if (i + kAhead < end) VoteTally::prefetch(graph_, unassigned_[i + kAhead]);
        proposals_[i] = propose(unassigned_[i], round_key, max_votes, tally);
      }
    });

    // Counting sort by batch, then each batch takes its best.
    std::vector<int64_t> first(free_.size() + 1, 0);
    for (const Proposal& proposal : proposals_) {
      if (proposal.batch >= 0) ++first[proposal.batch + 1];
    }
    std::partial_sum(first.begin(), first.end(), first.begin());
    const int64_t num_proposals = first.back();
    if (num_proposals == 0) return false;
    by_batch_.resize(static_cast<size_t>(num_proposals));
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (const Proposal& proposal : proposals_) {
      if (proposal.batch >= 0) by_batch_[next[proposal.batch]++] = {proposal.rank, proposal.row};
    }
    team_.for_ranges(static_cast<int64_t>(free_.size()), 64, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t batch = begin; batch < end; ++batch) {
        const auto group = by_batch_.begin() + first[batch], group_end = by_batch_.begin() + first[batch + 1];
        const int64_t num_accepted = std::min<int64_t>(room_[batch], group_end - group);
        if (num_accepted < group_end - group) std::nth_element(group, group + num_accepted, group_end);
        for (int64_t i = 0; i < num_accepted; ++i) {
          owner_[group[i].second] = static_cast<int32_t>(batch);
          filled_[group[i].second] = 0;
        }
        free_[batch] -= num_accepted;
      }
    });
    drop_assigned();
    return num_proposals * kFewProposals > num_rows;
  }

  // The batch with room that most neighbours are in, ties by hash.
  Proposal propose(uint32_t row, uint64_t round_key, uint32_t max_votes, VoteTally& tally) {
    const uint64_t row_hash = keyed_hash(round_key, row);
    tally.count(graph_, owner_.data(), row, static_cast<uint32_t>(row_hash >> 32),
                is_stranded_[row] ? std::min(kFewVotes, max_votes) : max_votes);
    uint32_t best_count = 0;
    for (const int32_t batch : tally) best_count = std::max(best_count, room_[batch] == 0 ? 0 : tally.votes(batch));
    is_stranded_[row] = best_count == 0;
    if (best_count == 0) return {0, row, kUnassigned};
    int32_t best = kUnassigned;
    uint64_t best_hash = 0;
    for (const int32_t batch : tally) {
      if (tally.votes(batch) != best_count || room_[batch] == 0) continue;
      const uint64_t hash = keyed_hash(row_hash, static_cast<uint64_t>(batch));
      if (best == kUnassigned || hash > best_hash) {
        best = batch;
        best_hash = hash;
      }
    }
    const uint64_t rank = uint64_t{kMaxVotes - best_count} << 56 | keyed_hash(row_hash, ~uint64_t{0}) >> 8;
    return {rank, row, best};
  }

  // --- adjusting ---------------------------------------------------------------------------------------------------
  void adjust(uint32_t stage) {
    if (free_.size() < 2) return;
    const bool is_hard = request_.hardness == Hardness::kHard;
    const int64_t goal = is_hard ? LinkShare::kWhole : link_goal();
    for (uint32_t pass = 0; pass < kMaxHardenings && link_share() < goal; ++pass) harden(++stage);
    if (is_hard) {  // more of it makes batches harder only where their members are hardly linked
      for (uint32_t pass = 0; pass < kMaxHardenings && link_share() < kHardlyLinked; ++pass) harden(++stage);
    }
    for (uint32_t pass = 0; pass < kMaxSoftenings && link_share() > goal; ++pass) soften(++stage);
  }

  // A little more than three quarters of what walks have: their share says less where they dwell on hubs (kNN graphs),
  // and where members are hardly linked (few neighbours of many candidates) a partition needs more links to be as hard.
  int64_t link_goal() {
    const LinkShare walks = walk_link_share(request_, order_, monitor_);
    const int64_t share = walks.beyond_random(request_.batch_size, graph_.num_rows);
    const int64_t goal = share * 3 / 4 + LinkShare::kWhole / 50;
    return request_.hardness == Hardness::kSoft ? goal / 2 : goal;
  }

  int64_t link_share() {
    LinkShare share;
    VoteTally& tally = tallies_[0];
    for (int64_t i = std::max<int64_t>(0, num_assigned_ - kNumMeasured); i < num_assigned_; ++i) {
      const uint32_t row = order_[i];  // not the first ones: many of them are roots
      tally.count(graph_, owner_.data(), row, 0, kMaxVotes);
      share.add(tally.votes(owner_[row]), std::min(kMaxVotes, graph_.degree(row)));
    }
    return share.beyond_random(request_.batch_size, graph_.num_rows);
  }

  void harden(uint32_t stage) {
    move_rows(stage, kHardenMask, kMaxVotes, [this](uint32_t row, uint64_t row_hash, VoteTally& tally) {
      tally.count(graph_, owner_.data(), row, static_cast<uint32_t>(row_hash >> 32), kMaxVotes);
      const uint32_t own_count = tally.votes(owner_[row]);
      return std::any_of(tally.begin(), tally.end(), [&](int32_t batch) { return tally.votes(batch) > own_count; });
    });
  }

  void soften(uint32_t stage) {
    move_rows(stage, kSoftenMask, kSoftVotes, [](uint32_t, uint64_t, VoteTally&) { return true; });
  }

  template <class Leaves>
  void move_rows(uint32_t stage, uint64_t mask, uint32_t max_votes, const Leaves& leaves) {
    const uint64_t stage_key = key(stage, kPickRows);
    std::vector<uint32_t> picked;
    for (uint32_t row = 0; row < owner_.size(); ++row) {
      if ((keyed_hash(stage_key, row) & mask) == 0 && owner_[row] >= 0) picked.push_back(row);
    }
    std::vector<char> is_leaving(picked.size());
    const auto num_picked = static_cast<int64_t>(picked.size());
    team_.for_ranges(num_picked, kGrain, [&](int64_t begin, int64_t end, Worker& worker) {
      VoteTally& tally = tallies_[static_cast<size_t>(worker.index())];
      for (int64_t i = begin; i < end; ++i) {
        if (i + kAhead < end) VoteTally::prefetch(graph_, picked[i + kAhead]);
        is_leaving[i] = leaves(picked[i], keyed_hash(stage_key, picked[i]), tally);
      }
    });
    const std::vector<int32_t> former = owner_;
    for (size_t i = 0; i < picked.size(); ++i) {
      if (!is_leaving[i]) continue;
      ++free_[former[picked[i]]];
      owner_[picked[i]] = kUnassigned;
      unassigned_.push_back(picked[i]);
    }
    for (uint32_t round = 0; round < kNumAdjustRounds; ++round) {
      room_ = free_;
      if (!vote_round(key(stage, kFirstRound + round), max_votes)) break;
    }
    for (const uint32_t row : unassigned_) {  // no room anywhere better: back home while there is some
      if (free_[former[row]] > 0) {
        owner_[row] = former[row];
        --free_[former[row]];
      }
    }
    drop_assigned();
    fill(stage);
  }

  void drop_assigned() {
    const auto assigned = [this](uint32_t row) { return owner_[row] != kUnassigned; };
    unassigned_.erase(std::remove_if(unassigned_.begin(), unassigned_.end(), assigned), unassigned_.end());
  }

  // --- end ---------------------------------------------------------------------------------------------------------
  void fill(uint32_t stage) {
    auto hashed = hashed_unassigned(key(stage, kFill));
    std::sort(hashed.begin(), hashed.end());
    auto next = hashed.begin();
    for (size_t batch = 0; batch < free_.size(); ++batch) {
      for (; free_[batch] > 0; --free_[batch], ++next) {
        owner_[next->second] = static_cast<int32_t>(batch);
        filled_[next->second] = 1;
      }
    }
    unassigned_.clear();
  }

  void write(int32_t* nodes) const {
    const int64_t num_full = num_assigned_ / request_.batch_size;
    std::vector<std::pair<uint64_t, int64_t>> shuffled(static_cast<size_t>(num_full));
    const uint64_t order_key = key(kFillStage, kOrder);
    for (int64_t batch = 0; batch < num_full; ++batch) {
      shuffled[batch] = {keyed_hash(order_key, static_cast<uint64_t>(batch)), batch};
    }
    std::sort(shuffled.begin(), shuffled.end());
    std::vector<int64_t> next(free_.size());
    for (int64_t place = 0; place < num_full; ++place) next[shuffled[place].second] = place * request_.batch_size;
    if (num_full < static_cast<int64_t>(free_.size())) next.back() = num_full * request_.batch_size;
    for (size_t row = 0; row < owner_.size(); ++row) {
      if (owner_[row] >= 0) nodes[next[owner_[row]]++] = static_cast<int32_t>(row);
    }
  }

  const PartitionRequest& request_;
  const GraphView graph_;
  Monitor& monitor_;
  ThreadTeam team_;
  int64_t num_assigned_ = 0;
  std::vector<uint32_t> order_;       // [R] keyed permutation: roots first, rows left out by drop_last at the end
  std::vector<int32_t> owner_;        // [R] batch, kUnassigned or kLeftOut
  std::vector<int64_t> capacity_;     // [num_batches]
  std::vector<int64_t> free_;         // [num_batches] places left
  std::vector<int64_t> room_;         // [num_batches] places to give away in this round
  std::vector<uint32_t> unassigned_;  // rows, ascending
  std::vector<char> filled_;          // [R] 1 if the row is where it is at random
  std::vector<char> is_stranded_;     // [R] 1 if the row found no batch when it asked last
  std::vector<VoteTally> tallies_;    // [num_threads]
  std::vector<Proposal> proposals_;   // of a round; kept for their memory
  std::vector<std::pair<uint64_t, uint32_t>> by_batch_;  // rank, row; the same
};

}  // namespace

int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, Monitor& monitor) {
  return Partition(request, monitor).run(nodes);
}

}  // namespace bse

// Partition epochs: every row in exactly one batch, and no batch left random. What follows what, for any engine.
//
// Walking over what is still unclaimed starts hard and ends random. Here short walks seed every batch at once, and
// batches then grow by capacity-limited votes of out-neighbors:
//   1. seeds     each batch walks with restart from its root until it has kSeedSize unassigned rows or
//                kMaxUnproductive steps in vain; a row claimed twice goes to the smaller (rank in the walk, hash,
//                batch)
//   2. votes     each unassigned row asks its out-neighbors (kMaxVotes consecutive ones at most; kFewVotes if it found
//                no batch when it asked last) and proposes to the batch with room that most of them are in; each batch
//                takes its best proposals up to its room, which widens over kNumGrowthRounds rounds from kSeedSize to
//                all places; until a round brings little
//   3. dissolve  twice, the emptiest batches are emptied and rooted anew among the unassigned; 1 and 2 again
//   4. reroot  while more than R / 500 rows are left, the emptiest open batches seed and grow from new roots
//   5. fill      what is left, in hash order
//   6. adjust    to a goal for the link share: the share of a row's neighbors that are in its batch. Independent walks
//                on the same graph say what it should be. While it is lower, batches harden: of a random quarter,
//                those rows leave that have more neighbors in another batch; they vote again, and who finds no room
//                goes back. While it is higher, batches soften: a random eighth leaves and asks kSoftVotes neighbors.
//                Where a few hubs are in everybody's list (raw pixels, sentences) a single vote says little, and
//                hardening is what makes batches hard; on small or tight graphs, votes are harder than walks.
// Then the full batches are put into hash order. Integers and hashes of (seed, epoch, stage, row) only; each round
// reads the state at its start: the result does not depend on threads or devices. O(R) memory, O(R K) a round. Oracle:
// batchsampler_ext/reference/partition.py.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"

namespace bse {

struct VoteRound {
  uint32_t stage, index;
  bool is_growing;      // batches widen; otherwise they give away all places
  bool is_conditional;  // it takes place only if the round before brought much
  uint32_t max_votes;
};

// What an engine does. Each stage has hashes of its own.
// clang-format off
//   int64_t num_unassigned()
//   void seed_all()                           Roots are the first rows of the root order.
//   void seed_dissolved(num_batches, stage)   Empties the emptiest batches and seeds them again.
//   void seed_emptiest(num_batches, stage)        Seeds the emptiest open batches, fewer if there are fewer.
//   void vote(round)
//   bool should_continue()                          Whether the last vote placed many rows. Always true if the engine itself
//                                             makes the rounds after it have no effect.
//   void fill(stage)
//   int64_t edge_share_goal(), edge_share()
//   void eject_misplaced(stage)             Rows leave their batch, to harden batches.
//   void leave(stage)                         Rows leave their batch, to soften batches.
//   void return_unplaced()                            Rows return to the batch last left, while it has room.
// clang-format on
template <class Engine>
class PartitionSchedule {
 public:
  PartitionSchedule(Engine& engine, const PartitionSizes& sizes, Hardness hardness)
      : engine_(engine), sizes_(sizes), hardness_(hardness) {}

  void run() {
    using namespace partition_rules;
    engine_.seed_all();
    grow(0, kNumVoteRounds);
    uint32_t stage = 1;
    for (; stage < 1 + kNumDissolves; ++stage) {
      const int64_t num_stuck = engine_.num_unassigned();
      if (num_stuck == 0) continue;
      engine_.seed_dissolved(at_least_one(num_stuck / sizes_.batch_size), stage);
      grow(stage, kNumVoteRounds);
    }
    for (; stage < kFillStage; ++stage) {
      const int64_t num_stuck = engine_.num_unassigned();
      if (num_stuck * 500 <= sizes_.num_assigned) break;
      engine_.seed_emptiest(at_least_one(num_stuck / 8), stage);
      grow(stage, kNumReseedRounds);
      if ((num_stuck - engine_.num_unassigned()) * 50 < num_stuck) break;
    }
    engine_.fill(kFillStage);
    if (sizes_.num_batches > 1) adjust(kFillStage);
  }

 private:
  static int64_t at_least_one(int64_t count) { return count > 1 ? count : 1; }

  void grow(uint32_t stage, uint32_t num_rounds) {
    for (uint32_t round = 0; round < num_rounds; ++round) {
      const bool is_growing = round + 1 < partition_rules::kNumGrowthRounds;
      const bool is_conditional = round >= partition_rules::kNumGrowthRounds;
      engine_.vote({stage, round, is_growing, is_conditional, partition_rules::kMaxVotes});
      if (!is_growing && !engine_.should_continue()) break;
    }
  }

  void adjust(uint32_t stage) {
    using namespace partition_rules;
    const bool is_hard = hardness_ == Hardness::kHard;
    const int64_t goal = is_hard ? EdgeShare::kWhole : engine_.edge_share_goal();
    int64_t share = engine_.edge_share();
    for (uint32_t pass = 0; pass < kMaxHardenings && share < goal; ++pass) share = harden(++stage);
    if (is_hard) {  // more of it makes batches harder only where their members are hardly linked
      for (uint32_t pass = 0; pass < kMaxHardenings && share < kLowEdgeShare; ++pass) share = harden(++stage);
    }
    for (uint32_t pass = 0; pass < kMaxSoftenings && share > goal; ++pass) share = soften(++stage);
  }

  int64_t harden(uint32_t stage) {
    engine_.eject_misplaced(stage);
    return reassign(stage, partition_rules::kMaxVotes);
  }

  int64_t soften(uint32_t stage) {
    engine_.leave(stage);
    return reassign(stage, partition_rules::kSoftVotes);
  }

  // Finds batches for those who left; returns the link share.
  int64_t reassign(uint32_t stage, uint32_t max_votes) {
    for (uint32_t round = 0; round < partition_rules::kNumAdjustRounds; ++round) {
      engine_.vote({stage, round, false, round > 0, max_votes});
      if (!engine_.should_continue()) break;
    }
    engine_.return_unplaced();
    engine_.fill(stage);
    return engine_.edge_share();
  }

  Engine& engine_;
  const PartitionSizes sizes_;
  const Hardness hardness_;
};

}  // namespace bse

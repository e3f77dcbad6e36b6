// Order of the steps of a partition epoch, for any engine. Every row gets exactly one batch, except rows that drop_last
// leaves out. Only rows that find no batch by their neighbors are placed at random.
//
// If batches were collected one after another from the rows still free, the first would be hard and the last random.
// Instead, short walks seed all batches at once. Batches then grow by votes of out-neighbors, within their capacity:
//   1. seeds     Each batch walks with restart from its root until it has kSeedSize unassigned rows, or takes
//                kMaxUnproductive steps in a row without a new one. A row claimed by several batches goes to the
//                smallest (position in the walk, hash, batch).
//   2. votes     Each unassigned row asks up to kMaxVotes consecutive out-neighbors, or kFewVotes if it found no batch
//                in its last vote. It proposes to the batch with room that most of them are in. Each batch accepts its
//                best proposals up to its room, which grows from kSeedSize to all places over kNumGrowthRounds rounds.
//                After these, voting ends once a round brings little (brings_much()), or after kNumVoteRounds rounds.
//   3. dissolve  Twice, the emptiest batches are emptied and get new roots among the unassigned rows. Steps 1 and 2
//                follow again.
//   4. reseed    While more than R / 500 of R rows are left, the emptiest open batches walk from new roots and grow.
//                This ends after kNumReseeds stages, or once a stage places fewer than one in 50 of the rows left.
//   5. fill      The rows left take the free places in hash order.
//   6. adjust    The excess edge share of the batches (edge_share.h) is moved to a goal derived from walks on the same
//                graph. While it is below the goal, batches harden: from a random quarter of the rows, those with more
//                neighbors in another batch leave. While it is above, batches soften: a random eighth of the rows
//                leaves. Rows that left vote again; to soften, they ask only kSoftVotes neighbors. Rows that find no
//                place return to their batch while it has room. The others are placed as in step 5.
// Batches need hardening if a few hubs are neighbors of most rows (raw pixels, sentences), because there single votes
// say little. They need softening on small or tight graphs, where votes give harder batches than walks.
//
// Finally the full batches are put into hash order. All steps use only integers and hashes of (seed, epoch, stage,
// row), and each round reads the state at its start. So the result does not depend on threads or devices. With K
// neighbors per row, memory is O(R), and time per round O(R K). Oracle: batchsampler_ext/reference/partition.py.
#pragma once

#include <cstdint>

#include "common/partition_rules.h"

namespace bse {

struct VoteRound {
  uint32_t stage, index;
  bool is_growing;      // batches offer room_in_round() places; otherwise all free places
  bool is_conditional;  // the round takes place only if the round before brought much
  uint32_t max_votes;
};

// Runs the schedule on an Engine with these functions. Each stage has its own hashes.
//   int64_t num_unassigned()
//   void seed_all()                          Seeds all batches; roots are the first rows of the root order.
//   void seed_dissolved(num_batches, stage)  Empties the emptiest batches and seeds them again.
//   void seed_emptiest(num_batches, stage)   Seeds the emptiest open batches, or all if they are fewer.
//   void vote(round)
//   bool should_continue()                   Returns whether the last vote brought much. An engine may always return
//                                            true if it turns conditional rounds into no-ops by itself.
//   void fill(stage)
//   int64_t edge_share_goal(), edge_share()  Goal and present value of the excess edge share, in units of EdgeShare.
//   void eject_misplaced(stage)              Ejects misplaced rows of a random quarter, to harden batches.
//   void leave(stage)                        Ejects a random eighth of the rows, to soften batches.
//   void return_unplaced()                   Returns unassigned rows to the batch they left last, while it has room.
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
    if (is_hard) {  // more passes make batches harder only if the share is low
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

  // Finds batches for the ejected rows; returns the new excess edge share.
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

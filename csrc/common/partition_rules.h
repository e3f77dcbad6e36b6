// What a partition is made of, for any device: its sizes, and the integer rules of seeds, votes and goals. How they
// follow each other is in partition_schedule.h.
#pragma once

#include <cstdint>

#include "common/edge_share.h"
#include "common/hash.h"
#include "common/host_device.h"
#include "common/random_stream.h"
#include "common/walk.h"

namespace bse {

// How linked the batches of a partition are to be, compared with walks; partition_schedule.h, step 6.
enum class Hardness : int { kSoft = 0, kDefault = 1, kHard = 2 };

struct PartitionSizes {
  int64_t num_rows = 0, batch_size = 0;
  int64_t num_assigned = 0;  // rows that get a batch: all but those left out by drop_last
  int64_t num_batches = 0;   // only the last one may be ragged

  PartitionSizes() = default;
  PartitionSizes(int64_t num_rows, int64_t batch_size, bool drop_last) : num_rows(num_rows), batch_size(batch_size) {
    num_assigned = num_rows - (drop_last ? num_rows % batch_size : 0);
    num_batches = (num_assigned + batch_size - 1) / batch_size;
  }

  BSE_HOST_DEVICE inline int64_t num_full() const { return num_assigned / batch_size; }

  // Places of a batch.
  BSE_HOST_DEVICE inline int64_t capacity(int64_t batch) const {
    const int64_t rest = num_assigned - batch * batch_size;
    return rest < batch_size ? rest : batch_size;
  }
};

namespace partition_rules {

constexpr int32_t kUnassigned = -1, kLeftOut = -2;  // owners of rows that are in no batch

constexpr uint32_t kSeedSize = 4, kMaxUnproductive = 64;
constexpr uint32_t kMaxVotes = 128, kFewVotes = 16, kSoftVotes = 2;
constexpr uint32_t kNumVoteRounds = 12, kNumGrowthRounds = 4, kNumDissolves = 2;
constexpr uint32_t kNumReseeds = 32, kNumReseedRounds = 6, kNumAdjustRounds = 6;
constexpr uint32_t kMaxHardenings = 2, kMaxSoftenings = 24;
constexpr int64_t kLowEdgeShare = EdgeShare::kWhole / 10;
constexpr int64_t kFewProposals = 32;  // a round in which fewer than one row of these proposes brings little
constexpr uint32_t kHardenMask = 3, kSoftenMask = 7;                 // a row takes part if these bits of its hash are 0
constexpr int64_t kNumMeasured = 4096;                               // rows that the link share is measured at
constexpr int64_t kMaxMeasuredWalks = 64, kMaxMeasuredMembers = 64;  // walks, and members of each

// Which hash of a stage; stages are numbered in the order they run in.
constexpr uint32_t kPickRows = 0, kClaim = 1, kFill = 2, kOrder = 3, kFirstRound = 4;
constexpr uint32_t kFillStage = 1 + kNumDissolves + kNumReseeds;

// --- seeds ---------------------------------------------------------------------------------------------------------

// Collects unassigned rows in the order a walk with restart meets them, the root first; returns how many, `limit` at
// most. words: those of segment `stage` of walk `batch`. degree(row); neighbor_row(row, i), of which `row` itself has
// no effect; is_unassigned(row). found: [kSeedSize]
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // what it calls may be for the device only
#endif
template <class Degree, class NeighborRow, class IsUnassigned>
BSE_HOST_DEVICE inline uint32_t seed_walk(SegmentWords words, uint32_t root, uint32_t limit, uint32_t restart_threshold,
                                          const Degree& degree, const NeighborRow& neighbor_row,
                                          const IsUnassigned& is_unassigned, uint32_t* found) {
  uint32_t num_found = 1, row = root, num_unproductive = 0;
  found[0] = root;
  for (uint32_t step = 0; num_found < limit && num_unproductive < kMaxUnproductive; ++step) {
    words.load(step);
    uint32_t num_neighbors = degree(row);
    if (words.restart_word() < restart_threshold || num_neighbors == 0) {
      row = root;
      num_neighbors = degree(row);
    }
    ++num_unproductive;
    if (num_neighbors == 0) continue;
    row = neighbor_row(row, mulhi(words.neighbor_word(), num_neighbors));
    bool is_new = is_unassigned(row);
    for (uint32_t i = 0; i < num_found; ++i) is_new = is_new && found[i] != row;
    if (is_new) {
      found[num_found++] = row;
      num_unproductive = 0;
    }
  }
  return num_found;
}

// Position in the walk, 24 bits of hash, batch: the smallest claim takes the row. No two are equal.
BSE_HOST_DEVICE inline uint64_t seed_claim(uint64_t claim_key, uint32_t position, uint32_t row, uint32_t batch) {
  const uint64_t hash = keyed_hash(claim_key, uint64_t{row} << 32 | batch);
  return uint64_t{position} << 56 | hash >> 40 << 32 | batch;
}

BSE_HOST_DEVICE inline int32_t claiming_batch(uint64_t claim) { return static_cast<int32_t>(claim & 0xFFFFFFFFu); }

// --- votes ---------------------------------------------------------------------------------------------------------

// Places that a batch gives away in a round: it widens from kSeedSize to all of its capacity.
BSE_HOST_DEVICE inline int64_t room_in_round(int64_t capacity, int64_t num_free, uint32_t round) {
  if (round + 1 >= kNumGrowthRounds) return num_free;
  const int64_t widening = capacity > kSeedSize ? capacity - kSeedSize : 0;
  const int64_t target = kSeedSize + widening * (round + 1) / kNumGrowthRounds;
  const int64_t room = target - (capacity - num_free);
  return room < 0 ? 0 : room < num_free ? room : num_free;
}

// Whether rows still find batches.
BSE_HOST_DEVICE inline bool brings_much(int64_t num_proposals, int64_t num_asking) {
  return num_proposals * kFewProposals > num_asking;
}

// Neighbors that a row asks.
BSE_HOST_DEVICE inline uint32_t num_votes(bool is_stranded, uint32_t max_votes) {
  return is_stranded && kFewVotes < max_votes ? kFewVotes : max_votes;
}

// Of the batches with most votes a row proposes to the one with the largest of these; no two are equal.
BSE_HOST_DEVICE inline uint64_t choice_hash(uint64_t row_hash, int32_t batch) {
  return keyed_hash(row_hash, static_cast<uint64_t>(batch));
}

// A smaller rank is a better proposal.
BSE_HOST_DEVICE inline uint64_t proposal_rank(uint64_t row_hash, uint32_t votes) {
  return uint64_t{kMaxVotes - votes} << 56 | keyed_hash(row_hash, ~uint64_t{0}) >> 8;
}

// --- goals ---------------------------------------------------------------------------------------------------------

// A little more than three quarters of what walks have: their share says less where they dwell on hubs (kNN graphs),
// and where members are hardly linked (few neighbors of many candidates) a partition needs more edges to be as hard.
inline int64_t edge_share_goal(int64_t walk_share, Hardness hardness) {
  const int64_t goal = walk_share * 3 / 4 + EdgeShare::kWhole / 50;
  return hardness == Hardness::kSoft ? goal / 2 : goal;
}

inline int64_t num_measured_walks(const PartitionSizes& sizes) {
  const int64_t num_walks = sizes.num_rows / (sizes.batch_size < sizes.num_rows ? sizes.batch_size : sizes.num_rows);
  return num_walks < kMaxMeasuredWalks ? num_walks : kMaxMeasuredWalks;
}

}  // namespace partition_rules

}  // namespace bse

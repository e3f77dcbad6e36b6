// Sizes of a partition and the integer rules of its seeds, votes and goals, for any device. partition_schedule.h says
// in which order they apply.
#pragma once

#include <cstdint>

#include "common/edge_share.h"
#include "common/hash.h"
#include "common/host_device.h"
#include "common/random_stream.h"
#include "common/walk.h"

namespace bse {

// Hardness that the batches of a partition should have, relative to walks (step 6 in partition_schedule.h).
enum class Hardness : int { kSoft = 0, kDefault = 1, kHard = 2 };
constexpr Hardness kLastHardness = Hardness::kHard;

struct PartitionSizes {
  int64_t num_rows = 0, batch_size = 0;
  int64_t num_assigned = 0;  // rows that get a batch: all but those that drop_last leaves out
  int64_t num_batches = 0;   // all full, except perhaps the last one

  PartitionSizes() = default;
  PartitionSizes(int64_t num_rows, int64_t batch_size, bool drop_last) : num_rows(num_rows), batch_size(batch_size) {
    num_assigned = num_rows - (drop_last ? num_rows % batch_size : 0);
    num_batches = (num_assigned + batch_size - 1) / batch_size;
  }

  BSE_HOST_DEVICE inline int64_t num_full() const { return num_assigned / batch_size; }

  // Returns the number of places of a batch.
  BSE_HOST_DEVICE inline int64_t capacity(int64_t batch) const {
    const int64_t rest = num_assigned - batch * batch_size;
    return rest < batch_size ? rest : batch_size;
  }
};

namespace partition_rules {

constexpr int32_t kUnassigned = -1, kLeftOut = -2;  // owner values of rows that are in no batch

constexpr uint32_t kSeedSize = 4, kMaxUnproductive = 64;
constexpr uint32_t kMaxVotes = 128, kFewVotes = 16, kSoftVotes = 2;
constexpr uint32_t kNumVoteRounds = 12, kNumGrowthRounds = 4, kNumDissolves = 2;
constexpr uint32_t kNumReseeds = 32, kNumReseedRounds = 6, kNumAdjustRounds = 6;
constexpr uint32_t kMaxHardenings = 2, kMaxSoftenings = 24;
constexpr int64_t kLowEdgeShare = EdgeShare::kWhole / 10;
constexpr int64_t kFewProposals = 32;  // a round brings little if at most one in this many voting rows proposes
constexpr uint32_t kHardenMask = 3, kSoftenMask = 7;  // a row takes part if these bits of its hash are 0
// The edge share of a partition is measured on at most kNumMeasured rows. That of walks is measured on at most
// kMaxMeasuredWalks walks, with at most kMaxMeasuredMembers members of each.
constexpr int64_t kNumMeasured = 4096;
constexpr int64_t kMaxMeasuredWalks = 64, kMaxMeasuredMembers = 64;

// Indices of the hash keys of a stage. Stages are numbered in the order they run in.
constexpr uint32_t kPickRows = 0, kClaim = 1, kFill = 2, kOrder = 3, kFirstRound = 4;
constexpr uint32_t kFillStage = 1 + kNumDissolves + kNumReseeds;

// --- seeds ---------------------------------------------------------------------------------------------------------

// Collects unassigned rows in the order in which a walk with restart meets them, root first. Returns how many, at most
// `limit`. words: segment `stage` of walk `batch`; found: [kSeedSize]
// Calls degree(row), neighbor_row(row, i) and is_unassigned(row). If neighbor i is not a row of the graph,
// neighbor_row() may return `row` itself: this step then adds nothing.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // the callables may be device-only functions
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

// Claim of a batch to a row: position in the walk, 24 bits of hash, batch. The smallest claim gets the row. No two
// claims to a row are equal.
BSE_HOST_DEVICE inline uint64_t seed_claim(uint64_t claim_key, uint32_t position, uint32_t row, uint32_t batch) {
  const uint64_t hash = keyed_hash(claim_key, uint64_t{row} << 32 | batch);
  return uint64_t{position} << 56 | hash >> 40 << 32 | batch;
}

BSE_HOST_DEVICE inline int32_t claiming_batch(uint64_t claim) { return static_cast<int32_t>(claim & 0xFFFFFFFFu); }

// --- votes ---------------------------------------------------------------------------------------------------------

// Returns how many places a batch offers in a round. They fill it up to a target that grows from kSeedSize to its
// capacity.
BSE_HOST_DEVICE inline int64_t room_in_round(int64_t capacity, int64_t num_free, uint32_t round) {
  if (round + 1 >= kNumGrowthRounds) return num_free;
  const int64_t widening = capacity > kSeedSize ? capacity - kSeedSize : 0;
  const int64_t target = kSeedSize + widening * (round + 1) / kNumGrowthRounds;
  const int64_t room = target - (capacity - num_free);
  return room < 0 ? 0 : room < num_free ? room : num_free;
}

// Returns whether more than one in kFewProposals voting rows found a batch to propose to.
BSE_HOST_DEVICE inline bool brings_much(int64_t num_proposals, int64_t num_asking) {
  return num_proposals * kFewProposals > num_asking;
}

// Returns how many neighbors a row asks. A row is stranded if it found no batch in its last vote.
BSE_HOST_DEVICE inline uint32_t num_votes(bool is_stranded, uint32_t max_votes) {
  return is_stranded && kFewVotes < max_votes ? kFewVotes : max_votes;
}

// Breaks ties: of the batches with the most votes, a row proposes to the one with the largest hash. No two are equal.
BSE_HOST_DEVICE inline uint64_t choice_hash(uint64_t row_hash, int32_t batch) {
  return keyed_hash(row_hash, static_cast<uint64_t>(batch));
}

// A smaller rank is a better proposal.
BSE_HOST_DEVICE inline uint64_t proposal_rank(uint64_t row_hash, uint32_t votes) {
  return uint64_t{kMaxVotes - votes} << 56 | keyed_hash(row_hash, ~uint64_t{0}) >> 8;
}

// --- goals ---------------------------------------------------------------------------------------------------------

// Returns the excess edge share (edge_share.h) that a partition aims at: 3/4 of the walks' share plus 1/50, and half of
// that if soft. Where walks dwell on hubs (kNN graphs), their share overstates their hardness, thus 3/4. Where members
// share few edges (few neighbors of many candidates), a partition needs a higher share than walks to be as hard, thus
// the 1/50. walk_share: excess edge share of the walks
inline int64_t edge_share_goal(int64_t walk_share, Hardness hardness) {
  const int64_t goal = walk_share * 3 / 4 + EdgeShare::kWhole / 50;
  return hardness == Hardness::kSoft ? goal / 2 : goal;
}

// Returns on how many walks their edge share is measured.
inline int64_t num_measured_walks(const PartitionSizes& sizes) {
  const int64_t num_walks = sizes.num_rows / (sizes.batch_size < sizes.num_rows ? sizes.batch_size : sizes.num_rows);
  return num_walks < kMaxMeasuredWalks ? num_walks : kMaxMeasuredWalks;
}

}  // namespace partition_rules

}  // namespace bse

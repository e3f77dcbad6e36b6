// Random walks with restart, as csrc/common/walk.h defines them, on the GPU: one warp per walk, one lane per segment.
//
// Given the root, a segment is a pure function of its number. So lanes walk up to 32 segments at the same time, before
// it is known whether all are needed. The window holds the segments first_, first_ + 1, ..., segment s in lane s % 32.
// Each round has three parts.
//   1. Every lane continues its segment, up to kStepsAhead steps, which wait in shared memory.
//   2. The warp commits steps in the order (segment, step): first the leading segments that have ended, then the steps
//      so far of the next segment. That one continues in the next round. Later segments wait.
//   3. Lanes of committed segments take the segments that enter the window.
// A commit does what a serial walk does, 32 steps at a time, so members, counts and caps are exact. A reroot changes
// the root and so all later segments, which begin again. So no commit goes beyond a segment that may cause a reroot.
// The result does not depend on how many steps lanes are ahead.
//
// The loads of a step depend on each other (neighbor id, its row, its degree). The 32 segments of a walk, and the walks
// of other warps, hide their latency. A warp takes O(steps / 32) rounds if segments are short, and O(steps) time if one
// segment is long.
//
// Source: Yang et al., KDD 2023, section 4.2, for the walk. The schedule is ours.
#pragma once

#include <cstdint>

#include "common/random_stream.h"
#include "common/walk.h"
#include "cuda/primitives/graph_view.cuh"
#include "cuda/runtime/device.h"
#include "cuda/runtime/report.cuh"
#include "cuda/walk/walks.h"
#include "cuda/walk/warp_batch.cuh"

namespace bse::cuda {

constexpr int kWalkWarps = 2;    // independent warps of a block; 32 such blocks fill a multiprocessor
constexpr int kStepsAhead = 16;  // must be even, as a Philox block serves two steps
constexpr uint32_t kMinWindow = 4;

// Parameters of all walks of a launch.
struct WalkSetting {
  WalkRequest request;
  WalkResult result;
  WalkLimits limits;
  uint32_t target;          // rows of a batch
  int log_segment_steps;    // floor(log2(mean number of steps of a segment))
  int log_slots;            // log2(slots of a member table)
  uint32_t* member_tables;  // [number of warps, 2^log_slots], or null if they are in shared memory
  uint64_t* status;         // [kNumStatusWords]
};

class WarpWalk {
 public:
  // steps: [kStepsAhead, 32], slots: [2^log_slots], both of this warp alone
  BSE_DEVICE WarpWalk(const WalkSetting& setting, uint32_t* steps, uint32_t* slots)
      : setting_(setting),
        graph_(setting.request.graph),
        steps_ahead_(steps),
        lane_(threadIdx.x % 32),
        batch_(slots, setting.log_slots, setting.target) {}

  // Runs the walk at `index` of the request and writes its nodes and counts.
  BSE_DEVICE void run(int64_t index) {
    const WalkRequest& request = setting_.request;
    int32_t* const nodes = setting_.result.nodes + index * request.batch_size;
    const int64_t root = request.roots[index];
    const bool has_root = root >= 0 && root < graph_.num_rows;
    walk_ = static_cast<uint32_t>(request.walk_ids[index]);
    num_steps_ = num_restarts_ = num_reroots_ = 0;
    uint32_t num_filled = 0;
    if (has_root) {
      batch_.begin(nodes);
      first_ = num_unproductive_ = 0;
      found_any_ = false;
      begin_at(static_cast<uint32_t>(root));
      while (!batch_.full() && first_ < setting_.limits.max_segments) {
        walk_ahead();
        __syncwarp();
        commit();
        __syncwarp();
      }
      num_filled = batch_.fill(static_cast<uint32_t>(graph_.num_rows), request.seed, request.epoch, walk_);
    } else if (lane_ == 0) {
      report(setting_.status, StatusKind::kRootNotARow, static_cast<uint32_t>(index), static_cast<uint32_t>(root));
    }
    for (int64_t i = (has_root ? setting_.target : 0) + lane_; i < request.batch_size; i += 32) nodes[i] = -1;
    if (lane_ == 0) {
      setting_.result.steps[index] = num_steps_;
      setting_.result.restarts[index] = num_restarts_;
      setting_.result.reroots[index] = num_reroots_;
      setting_.result.random_fills[index] = num_filled;
    }
  }

 private:
  // How a segment ended; kNone while it continues.
  enum class End { kNone, kRestart, kDeadEnd, kCap, kBadNeighbor };

  // ---- called by each lane on its own

  // Position of the lane's segment in the window.
  BSE_DEVICE uint32_t rank() const { return (lane_ - first_) & 31; }

  BSE_DEVICE void begin_segment() {
    row_ = root_;
    num_walked_ = 0;
    num_ahead_ = 0;
    end_ = End::kNone;
  }

  // Returns the number of segments to walk ahead. It is limited because steps beyond the end of the walk are wasted. It
  // is about twice as many segments as the missing rows would take if every step found a new row. It grows while
  // segments add no row.
  BSE_DEVICE uint32_t window() const {
    const uint32_t likely = min(batch_.num_missing() >> setting_.log_segment_steps, 16u);
    const uint32_t wanted = 2 * likely + kMinWindow + num_unproductive_;
    return min(wanted, setting_.limits.max_segments - first_);
  }

  BSE_DEVICE void walk_ahead() {
    if (rank() >= window()) return;
    const uint32_t tag = stream_tag(Purpose::kWalk, setting_.request.epoch);
    while (end_ == End::kNone && num_ahead_ < kStepsAhead) {  // num_walked_ and num_ahead_ are even here
      const PhiloxBlock block = philox4x32(setting_.request.seed, tag, walk_, first_ + rank(), num_walked_ >> 1);
      walk_step(block.word[0], block.word[1]);
      if (end_ == End::kNone) walk_step(block.word[2], block.word[3]);
    }
  }

  BSE_DEVICE void walk_step(uint32_t restart_word, uint32_t neighbor_word) {
    if (restart_word < setting_.request.restart_threshold) {
      end_ = End::kRestart;
      return;
    }
    const uint32_t degree = degree_of(graph_, row_);
    if (degree == 0) {
      end_ = End::kDeadEnd;
      return;
    }
    const Neighbor neighbor = neighbor_of(graph_, row_, mulhi(neighbor_word, degree));
    if (!neighbor.is_row) {
      bad_id_ = neighbor.id;
      end_ = End::kBadNeighbor;
      return;
    }
    row_ = neighbor.row;
    steps_ahead_[num_ahead_++ * 32 + lane_] = row_;
    if (++num_walked_ == setting_.limits.max_segment_steps) end_ = End::kCap;
  }

  // ---- called by all lanes together

  BSE_DEVICE void begin_at(uint32_t root) {
    root_ = root;
    batch_.add(lane_ == 0, root);
    begin_segment();
  }

  // The lane whose segment has this rank.
  BSE_DEVICE int lane_of(uint32_t rank) const { return static_cast<int>((first_ + rank) & 31); }

  // Bit r tells whether the condition holds in the lane whose segment has rank r.
  BSE_DEVICE unsigned ranks_where(bool condition) const {
    const unsigned lanes = __ballot_sync(kAllLanes, condition);
    return lanes >> (first_ & 31) | lanes << (-first_ & 31);
  }

  BSE_DEVICE static unsigned ranks_below(uint32_t rank) { return rank < 32 ? (1u << rank) - 1 : ~0u; }

  BSE_DEVICE void commit() {
    const unsigned over = ranks_where(end_ != End::kNone);
    const unsigned restarted = ranks_where(end_ == End::kRestart);
    const uint32_t num_over = over == ~0u ? 32 : static_cast<uint32_t>(__ffs(static_cast<int>(~over)) - 1);
    const uint32_t num_until_reroot = setting_.limits.max_unproductive_segments - num_unproductive_;
    const uint32_t num_ended = min(num_over, num_until_reroot);  // segments committed to their end
    const bool goes_on = num_ended < num_until_reroot;           // the next segment's steps are committed, too
    const bool is_ended = rank() < num_ended, is_part = goes_on && rank() == num_ended;

    // From here on, lane r holds the number of committed steps of rank r, and their sum over ranks 0..r.
    const int num_own = __shfl_sync(kAllLanes, is_ended || is_part ? num_ahead_ : 0, lane_of(lane_));
    int sum = num_own;
    BSE_UNROLL
    for (unsigned delta = 1; delta < 32; delta *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, delta);
      if (lane_ >= delta) sum += other;
    }
    const int total = __shfl_sync(kAllLanes, sum, 31);

    unsigned found = found_any_ ? 1 : 0;  // ranks of segments that added a row
    for (int begin = 0; begin < total; begin += 32) {
      const int position = begin + static_cast<int>(lane_);
      const bool is_step = position < total;
      int of_rank = 0;  // number of ranks whose steps are all before this position, which is the rank of this step
      BSE_UNROLL
      for (int bit = 16; bit > 0; bit /= 2) {
        if (__shfl_sync(kAllLanes, sum, of_rank + bit - 1) <= position) of_rank += bit;
      }
      const int step = position - __shfl_sync(kAllLanes, sum - num_own, of_rank);
      const uint32_t row = is_step ? steps_ahead_[step * 32 + lane_of(static_cast<uint32_t>(of_rank))] : 0;
      const unsigned added = batch_.add(is_step, row);
      if (batch_.full()) {  // the last added row ends the walk; later steps do not count
        const int last = 31 - __clz(static_cast<int>(added));
        const auto last_rank = static_cast<uint32_t>(__shfl_sync(kAllLanes, of_rank, last));
        count(begin + last + 1, restarted, last_rank);
        return;
      }
      found |= __reduce_or_sync(kAllLanes, (added >> lane_ & 1) << of_rank);
    }
    count(total, restarted, num_ended);

    const unsigned productive = found & ranks_below(num_ended);
    num_unproductive_ = productive != 0 ? num_ended - (32 - static_cast<uint32_t>(__clz(static_cast<int>(productive))))
                                        : num_unproductive_ + num_ended;
    found_any_ = goes_on && num_ended < 32 && (found >> num_ended & 1) != 0;
    first_ += num_ended;
    if (num_unproductive_ == setting_.limits.max_unproductive_segments) {
      reroot();
    } else if (is_ended) {
      begin_segment();
    } else if (is_part) {
      num_ahead_ = 0;
    }
  }

  // Counts committed steps, and the restarts of segments with ranks below rank_end. Reports bad neighbors that ended
  // such segments.
  BSE_DEVICE void count(int num_steps, unsigned restarted, uint32_t rank_end) {
    num_steps_ += num_steps;
    num_restarts_ += __popc(restarted & ranks_below(rank_end));
    if (end_ == End::kBadNeighbor && rank() < rank_end) {
      report(setting_.status, StatusKind::kNeighborNotARow, row_, static_cast<uint32_t>(bad_id_));
    }
  }

  // Draws a new root. Steps that lanes have walked ahead from the old root are dropped.
  BSE_DEVICE void reroot() {
    WordStream words(setting_.request.seed, Purpose::kReroot, setting_.request.epoch, walk_, first_);
    num_unproductive_ = 0;
    ++num_reroots_;
    begin_at(words.next_below(static_cast<uint32_t>(graph_.num_rows)));
  }

  const WalkSetting& setting_;
  const GraphView& graph_;
  uint32_t* const steps_ahead_;
  const uint32_t lane_;

  // The segment of this lane.
  uint32_t row_ = 0;
  uint32_t num_walked_ = 0;  // steps so far; the last num_ahead_ are not committed yet
  int num_ahead_ = 0;
  End end_ = End::kNone;
  int32_t bad_id_ = 0;

  // The walk; the same in all lanes.
  WarpBatch batch_;
  uint32_t walk_ = 0, root_ = 0;
  uint32_t first_ = 0;             // number of segments committed to their end
  uint32_t num_unproductive_ = 0;  // number of segments in a row, up to the last of these, that added no row
  bool found_any_ = false;         // whether the next segment has added a row so far
  int64_t num_steps_ = 0, num_restarts_ = 0, num_reroots_ = 0;
};

// Runs all walks of a request. kSharedTables: member tables are in shared memory, otherwise in setting.member_tables,
// one for each warp of the grid.
template <bool kSharedTables>
__global__ void __launch_bounds__(32 * kWalkWarps) walk_kernel(const WalkSetting setting) {
  device::SharedMemory shared;
  const unsigned warp = threadIdx.x / 32;
  const int64_t warp_of_grid = int64_t{blockIdx.x} * kWalkWarps + warp;
  const size_t num_slots = size_t{1} << setting.log_slots;
  uint32_t* const steps = shared.take<uint32_t>(kWalkWarps * kStepsAhead * 32) + warp * kStepsAhead * 32;
  uint32_t* slots;
  if constexpr (kSharedTables) {
    slots = shared.take<uint32_t>(kWalkWarps * num_slots) + warp * num_slots;
  } else {
    slots = setting.member_tables + static_cast<size_t>(warp_of_grid) * num_slots;
  }
  WarpWalk walk(setting, steps, slots);
  const int64_t num_warps = int64_t{gridDim.x} * kWalkWarps;
  for (int64_t i = warp_of_grid; i < setting.request.num_walks; i += num_warps) walk.run(i);
}

}  // namespace bse::cuda

// Canonical random walks with restart (csrc/common/walk.h) on the GPU: a warp for each walk, a lane for each segment.
//
// A segment is a pure function of its number, so 32 of them are walked at the same time, long before it is known
// whether they will be needed: the window holds the segments first_, first_ + 1, ..., segment s in lane s % 32. In each
// round
//   1. every lane goes on with its segment, up to kStepsAhead steps that wait in shared memory;
//   2. the warp commits what comes next in the order (segment, step): all segments that are over, from the first one
//      on, and what there is of the one after them, which goes on in the next round while later ones wait;
//   3. the lanes of committed segments take the segments that enter the window.
// Commits are what the serial walk does, 32 steps at a time: members, counts and caps are exact. A reroot changes the
// root, hence all later segments, and they begin again; so no commit goes beyond the segment that may cause one. How
// far lanes are ahead has no influence on the result.
//
// Loads of a step depend on each other (neighbor, its row, its degree); 32 segments of a walk and the walks of other
// warps hide their latency. Time O(steps / 32) rounds of a warp for short segments, O(steps) for a single long one.
//
// Source: Yang et al., KDD 2023, section 4.2, for the walk; the schedule is ours.
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

constexpr int kWalkWarps = 2;    // of a block, each on its own: an SM with 32 blocks is full
constexpr int kStepsAhead = 16;  // even: a Philox block serves two steps
constexpr uint32_t kMinWindow = 4;

// What all walks of a launch have in common.
struct WalkSetting {
  WalkRequest request;
  WalkResult result;
  WalkLimits limits;
  uint32_t target;          // rows of a batch
  int log_segment_steps;    // floor of the logarithm of a segment's mean number of steps
  int log_slots;            // of a member table
  uint32_t* member_tables;  // [number of warps, 2^log_slots], or null: in shared memory
  uint64_t* status;         // [kNumStatusWords]
};

class WarpWalk {
 public:
  // steps: [kStepsAhead, 32], of this warp alone
  BSE_DEVICE WarpWalk(const WalkSetting& setting, uint32_t* steps, uint32_t* slots)
      : setting_(setting),
        graph_(setting.request.graph),
        steps_ahead_(steps),
        lane_(threadIdx.x % 32),
        batch_(slots, setting.log_slots, setting.target) {}

  // The walk at `index` of the request, from its root to its counts.
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
  // How a segment ended.
  enum class End { kNone, kRestart, kDeadEnd, kCap, kBadNeighbor };

  // ---- each lane for itself

  // Place of the lane's segment in the window.
  BSE_DEVICE uint32_t rank() const { return (lane_ - first_) & 31; }

  BSE_DEVICE void begin_segment() {
    row_ = root_;
    num_walked_ = 0;
    num_ahead_ = 0;
    end_ = End::kNone;
  }

  // Steps ahead of a batch that is full are wasted: so twice as many segments as the missing rows take if all steps
  // find one, and more of them while they bring nothing.
  BSE_DEVICE uint32_t window() const {
    const uint32_t likely = min(batch_.num_missing() >> setting_.log_segment_steps, 16u);
    const uint32_t wanted = 2 * likely + kMinWindow + num_unproductive_;
    return min(wanted, setting_.limits.max_segments - first_);
  }

  BSE_DEVICE void walk_ahead() {
    if (rank() >= window()) return;
    const uint32_t tag = stream_tag(Purpose::kWalk, setting_.request.epoch);
    while (end_ == End::kNone && num_ahead_ < kStepsAhead) {  // both counts of steps are even here
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

  // ---- all lanes together

  BSE_DEVICE void begin_at(uint32_t root) {
    root_ = root;
    batch_.add(lane_ == 0, root);
    begin_segment();
  }

  // The lane that has the segment of this rank.
  BSE_DEVICE int lane_of(uint32_t rank) const { return static_cast<int>((first_ + rank) & 31); }

  // Which lanes, by the rank of their segment.
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
    const uint32_t num_ended = min(num_over, num_until_reroot);  // segments that are committed to their end
    const bool goes_on = num_ended < num_until_reroot;           // and the steps of the next one are, too
    const bool is_ended = rank() < num_ended, is_part = goes_on && rank() == num_ended;

    // From here on, lane r holds the number of steps of rank r, and the sum of them up to its own.
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
      int of_rank = 0;  // ranks whose steps are all before this position, hence the rank of this one
      BSE_UNROLL
      for (int bit = 16; bit > 0; bit /= 2) {
        if (__shfl_sync(kAllLanes, sum, of_rank + bit - 1) <= position) of_rank += bit;
      }
      const int step = position - __shfl_sync(kAllLanes, sum - num_own, of_rank);
      const uint32_t row = is_step ? steps_ahead_[step * 32 + lane_of(static_cast<uint32_t>(of_rank))] : 0;
      const unsigned added = batch_.add(is_step, row);
      if (batch_.full()) {  // by the last that was added, and nothing counts after it
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

  // Steps that were committed, and the segments before the one of this rank.
  BSE_DEVICE void count(int num_steps, unsigned restarted, uint32_t rank_end) {
    num_steps_ += num_steps;
    num_restarts_ += __popc(restarted & ranks_below(rank_end));
    if (end_ == End::kBadNeighbor && rank() < rank_end) {
      report(setting_.status, StatusKind::kNeighborNotARow, row_, static_cast<uint32_t>(bad_id_));
    }
  }

  // What lanes have walked from the old root is void.
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

  // The lane's segment.
  uint32_t row_ = 0;
  uint32_t num_walked_ = 0;  // steps, of which the last num_ahead_ wait to be committed
  int num_ahead_ = 0;
  End end_ = End::kNone;
  int32_t bad_id_ = 0;

  // The walk: the same in all lanes.
  WarpBatch batch_;
  uint32_t walk_ = 0, root_ = 0;
  uint32_t first_ = 0;             // segments that are committed
  uint32_t num_unproductive_ = 0;  // of those, the last that added nothing
  bool found_any_ = false;         // has the next one, so far?
  int64_t num_steps_ = 0, num_restarts_ = 0, num_reroots_ = 0;
};

// kSharedTables: member tables in shared memory, else in setting.member_tables, one for each warp of the grid.
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

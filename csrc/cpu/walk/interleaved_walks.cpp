#include "cpu/walk/interleaved_walks.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "common/walk.h"
#include "cpu/walk/batch.h"
#include "cpu/walk/walk_plan.h"

namespace bse {

namespace {

constexpr int64_t kMaxLanes = 32;              // walks in flight per thread
constexpr int64_t kLaneMemoryBytes = 1 << 20;  // member tables of a thread's walks, which should stay in L2
constexpr int kRoundsBetweenPolls = 64;

inline void prefetch(const void* address) { __builtin_prefetch(address); }

// A walk in flight: a state machine that waits at each access to memory.
class WalkLane {
 public:
  WalkLane(const WalkRequest& request, const WalkLimits& limits)
      : request_(request),
        graph_(request.graph),
        limits_(limits),
        batch_(target()),
        plan_(request.seed, request.epoch, request.restart_threshold, limits) {}

  // Starts the walk at `index` of the request. It may be over at once.
  void begin(int64_t index, int32_t* nodes) {
    index_ = index;
    walk_ = static_cast<uint32_t>(request_.walk_ids[index]);
    row_ = root_ = static_cast<uint32_t>(request_.roots[index]);
    segment_ = num_unproductive_ = 0;
    found_any_ = false;
    steps_ = restarts_ = reroots_ = 0;
    nodes_ = nodes;
    batch_.begin(nodes, target());
    batch_.add(root_);
    plan_.begin(walk_, 0);
    if (batch_.full()) {
      state_ = State::kOver;
    } else {
      choose_step();
    }
  }

  // Reads what was prefetched and continues to the next access to memory.
  void advance() {
    switch (state_) {
      case State::kNeighbor:
        id_ = graph_.checked_id(*neighbor_, row_);
        if (graph_.row_of != nullptr) {
          prefetch(graph_.row_of + id_);
          state_ = State::kRow;
          return;
        }
        [[fallthrough]];
      case State::kRow:
        row_ = graph_.row_of_checked(id_, row_);
        ++steps_;
        if (batch_.add(row_)) {
          found_any_ = true;
          if (batch_.full()) {
            state_ = State::kOver;
            return;
          }
        }
        [[fallthrough]];
      case State::kChoice:
        choose_step();
        return;
      case State::kDegree:
        take_step();
        return;
      case State::kFull:
        if (graph_.degree(row_) != graph_.num_neighbors) {
          take_step();
          return;
        }
        state_ = State::kNeighbor;
        advance();
        return;
      case State::kOver:
        return;
    }
  }

  bool is_over() const { return state_ == State::kOver; }

  void finish(const WalkResult& result) {
    result.random_fills[index_] = batch_.fill(request_, walk_);
    std::fill(nodes_ + target(), nodes_ + request_.batch_size, -1);
    result.steps[index_] = steps_;
    result.restarts[index_] = restarts_;
    result.reroots[index_] = reroots_;
  }

 private:
  // What the walk reads next.
  enum class State {
    kNeighbor,  // *neighbor_
    kRow,       // graph_.row_of[id_]
    kDegree,    // graph_.degree(row_)
    kFull,      // graph_.degree(row_), and *neighbor_ if the row is full
    kChoice,    // nothing: the walk only yields to the others
    kOver,      // nothing: the batch is full, or the segments are used up
  };

  int64_t target() const { return std::min(request_.batch_size, graph_.num_rows); }

  void choose_step() {
    const PlannedStep step = plan_.next();
    for (uint32_t i = 0; i < step.num_ends; ++i) {
      restarts_ += i < step.num_restarts;
      if (!end_segment()) return;
    }
    if (!step.is_step) {
      state_ = State::kChoice;
      return;
    }
    neighbor_word_ = step.neighbor_word;
    const int32_t* degree = graph_.degree_address(row_);
    if (degree == nullptr || row_ == root_) {  // the degree of a root is usually in the cache
      take_step();
      return;
    }
    prefetch(degree);
    state_ = State::kDegree;
    if (graph_.finds_degrees) {  // the degree lies in the row itself, and most rows are full
      prefetch_neighbor(static_cast<uint32_t>(graph_.num_neighbors));
      state_ = State::kFull;
    }
  }

  void take_step() {
    const uint32_t degree = graph_.degree(row_);
    if (degree == 0) {  // a row without neighbors ends the segment, whose planned steps are void
      state_ = State::kChoice;
      if (end_segment()) plan_.begin(walk_, segment_);
      return;
    }
    prefetch_neighbor(degree);
    state_ = State::kNeighbor;
  }

  void prefetch_neighbor(uint32_t degree) {
    neighbor_ = graph_.neighbors + row_ * graph_.num_neighbors + mulhi(neighbor_word_, degree);
    prefetch(neighbor_);
  }

  // Ends a segment. Returns false if the walk is over.
  bool end_segment() {
    ++segment_;
    num_unproductive_ = found_any_ ? 0 : num_unproductive_ + 1;
    found_any_ = false;
    if (num_unproductive_ == limits_.max_unproductive_segments) {
      WordStream words(request_.seed, Purpose::kReroot, request_.epoch, walk_, segment_);
      root_ = words.next_below(static_cast<uint32_t>(graph_.num_rows));
      num_unproductive_ = 0;
      ++reroots_;
      batch_.add(root_);
    }
    row_ = root_;
    if (!batch_.full() && segment_ != limits_.max_segments) return true;
    state_ = State::kOver;
    return false;
  }

  const WalkRequest& request_;
  const GraphView graph_;
  const WalkLimits limits_;
  Batch batch_;
  WalkPlan plan_;
  State state_ = State::kOver;
  const int32_t* neighbor_ = nullptr;
  int32_t* nodes_ = nullptr;
  int64_t index_ = 0, row_ = 0, steps_ = 0, restarts_ = 0, reroots_ = 0;
  uint32_t walk_ = 0, root_ = 0, segment_ = 0, num_unproductive_ = 0, neighbor_word_ = 0;
  int32_t id_ = 0;
  bool found_any_ = false;
};

}  // namespace

void interleaved_walks(const WalkRequest& request, const WalkResult& result, Monitor& monitor) {
  ThreadTeam team(request.num_threads, monitor);
  const WalkLimits limits = walk_limits(static_cast<uint32_t>(request.batch_size), request.restart_threshold);
  const int64_t lane_bytes = Batch::bytes(std::min(request.batch_size, request.graph.num_rows));
  const int64_t share = (request.num_walks + team.num_threads() - 1) / team.num_threads();
  const int64_t num_lanes = std::max<int64_t>(1, std::min({kMaxLanes, kLaneMemoryBytes / lane_bytes, share}));
  std::atomic<int64_t> next_walk{0};

  team.for_each(team.num_threads(), [&](int64_t, Worker& worker) {
    std::vector<WalkLane> lanes;
    lanes.reserve(static_cast<size_t>(num_lanes));
    const auto begin_next = [&](WalkLane& lane) {
      const int64_t walk = next_walk.fetch_add(1, std::memory_order_relaxed);
      if (walk >= request.num_walks) return false;
      lane.begin(walk, result.nodes + walk * request.batch_size);
      return true;
    };
    while (static_cast<int64_t>(lanes.size()) < num_lanes) {
      lanes.emplace_back(request, limits);
      if (!begin_next(lanes.back())) {
        lanes.pop_back();
        break;
      }
    }
    std::vector<WalkLane*> active;
    for (WalkLane& lane : lanes) active.push_back(&lane);
    for (int round = 0; !active.empty(); ++round) {
      if (round % kRoundsBetweenPolls == 0 && worker.should_stop()) return;
      for (size_t i = 0; i < active.size();) {
        WalkLane& lane = *active[i];
        lane.advance();
        if (lane.is_over()) {
          lane.finish(result);
          if (!begin_next(lane)) {
            active[i] = active.back();
            active.pop_back();
            continue;
          }
        }
        ++i;
      }
    }
  });
}

}  // namespace bse

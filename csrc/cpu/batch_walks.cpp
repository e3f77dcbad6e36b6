// Batches from roots on the CPU: the canonical walk with restart, and the paper's other strategies for comparison.

#include "batch_walks.h"

#include <memory>
#include <vector>

#include "../common/permutation.h"
#include "../common/walk.h"
#include "index_table.h"

namespace bse {

namespace {

// One batch being collected: distinct rows in the order they were found.
class Batch {
 public:
  explicit Batch(int64_t capacity) : members_(capacity) {}

  void begin(int32_t* nodes, int64_t target) {
    members_.clear();
    nodes_ = nodes;
    size_ = 0;
    target_ = target;
  }
  bool add(uint32_t row) {
    if (full() || !members_.insert(row)) return false;
    nodes_[size_++] = static_cast<int32_t>(row);
    return true;
  }
  bool full() const { return size_ == target_; }
  int64_t size() const { return size_; }
  uint32_t operator[](int64_t i) const { return static_cast<uint32_t>(nodes_[i]); }

 private:
  IndexTable members_;
  int32_t* nodes_ = nullptr;
  int64_t size_ = 0, target_ = 0;
};

struct WalkCounts {
  int64_t steps = 0, restarts = 0, teleports = 0, fills = 0;
};

class Collector {
 public:
  explicit Collector(const WalkRequest& request)
      : request_(request),
        graph_(request.graph),
        limits_(walk_limits(static_cast<uint32_t>(request.batch_size), request.restart_threshold)),
        target_(std::min(request.batch_size, request.graph.num_rows)),
        batch_(target_) {}

  // Writes one batch. Returns early, unfinished, if the worker was told to stop.
  WalkCounts collect(uint32_t root, uint32_t walk, int32_t* nodes, Worker& worker) {
    counts_ = WalkCounts{};
    batch_.begin(nodes, target_);
    switch (request_.strategy) {
      case Strategy::kWalk:
        random_walk(root, walk, worker);
        break;
      case Strategy::kDepthFirst:
        depth_first(root);
        break;
      case Strategy::kBreadthFirst:
      case Strategy::kNeighbors:
      case Strategy::kUniform:
        breadth_first(root);
        break;
    }
    if (!batch_.full()) fill(walk);
    for (int64_t i = target_; i < request_.batch_size; ++i) nodes[i] = -1;
    return counts_;
  }

 private:
  void random_walk(uint32_t root, uint32_t walk, Worker& worker) {
    batch_.add(root);
    uint32_t num_barren = 0;
    for (uint32_t segment = 0; !batch_.full() && segment < limits_.max_segments;) {
      if ((segment & 63) == 0 && worker.should_stop()) return;
      const bool found_any = walk_segment(root, walk, segment);
      if (batch_.full()) return;
      ++segment;
      num_barren = found_any ? 0 : num_barren + 1;
      if (num_barren == limits_.max_barren_segments) {
        WordStream words(request_.seed, Purpose::kTeleport, request_.epoch, walk, segment);
        root = words.next_below(static_cast<uint32_t>(graph_.num_rows));
        num_barren = 0;
        ++counts_.teleports;
        batch_.add(root);
      }
    }
  }

  // True if the segment added a node. Stops within the segment once the batch is full.
  bool walk_segment(uint32_t root, uint32_t walk, uint32_t segment) {
    SegmentWords words(request_.seed, Purpose::kWalk, request_.epoch, walk, segment);
    uint32_t row = root;
    bool found_any = false;
    for (uint32_t step = 0; step < limits_.max_segment_steps; ++step) {
      words.load(step);
      if (words.restart_word() < request_.restart_threshold) {
        ++counts_.restarts;
        break;
      }
      const uint32_t degree = graph_.degree(row);
      if (degree == 0) break;
      row = graph_.neighbor_row(row, mulhi(words.neighbor_word(), degree));
      ++counts_.steps;
      if (batch_.add(row)) {
        found_any = true;
        if (batch_.full()) break;
      }
    }
    return found_any;
  }

  // Also the root's neighbours alone (kNeighbors: one level) and the root alone (kUniform).
  void breadth_first(uint32_t root) {
    batch_.add(root);
    const bool one_level = request_.strategy == Strategy::kNeighbors;
    if (request_.strategy == Strategy::kUniform) return;
    for (int64_t next = 0; next < (one_level ? 1 : batch_.size()) && !batch_.full(); ++next) {
      const uint32_t row = batch_[next];
      for (uint32_t i = 0; i < graph_.degree(row) && !batch_.full(); ++i) batch_.add(graph_.neighbor_row(row, i));
    }
  }

  // Preorder; neighbours in row order.
  void depth_first(uint32_t root) {
    stack_.assign(1, root);
    while (!stack_.empty() && !batch_.full()) {
      const uint32_t row = stack_.back();
      stack_.pop_back();
      if (!batch_.add(row)) continue;
      for (uint32_t i = graph_.degree(row); i-- > 0;) stack_.push_back(graph_.neighbor_row(row, i));
    }
  }

  void fill(uint32_t walk) {
    const auto num_rows = static_cast<uint32_t>(graph_.num_rows);
    const KeyedPermutation permutation(num_rows, request_.seed, Purpose::kFill, request_.epoch, walk);
    for (uint32_t i = 0; i < num_rows && !batch_.full(); ++i) counts_.fills += batch_.add(permutation(i));
  }

  const WalkRequest& request_;
  const GraphView graph_;
  const WalkLimits limits_;
  const int64_t target_;
  Batch batch_;
  WalkCounts counts_;
  std::vector<uint32_t> stack_;
};

}  // namespace

void walk_batches(const WalkRequest& request, const WalkResult& result, Monitor& monitor) {
  ThreadTeam team(request.num_threads, monitor);
  std::vector<std::unique_ptr<Collector>> collectors(static_cast<size_t>(team.num_threads()));
  team.for_ranges(request.num_walks, 8, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& collector = collectors[static_cast<size_t>(worker.index())];
    if (collector == nullptr) collector = std::make_unique<Collector>(request);
    for (int64_t w = begin; w < end && !worker.should_stop(); ++w) {
      const WalkCounts counts =
          collector->collect(static_cast<uint32_t>(request.roots[w]), static_cast<uint32_t>(request.walk_ids[w]),
                             result.nodes + w * request.batch_size, worker);
      result.steps[w] = counts.steps;
      result.restarts[w] = counts.restarts;
      result.teleports[w] = counts.teleports;
      result.fills[w] = counts.fills;
    }
  });
}

}  // namespace bse

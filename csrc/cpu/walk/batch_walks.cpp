// Batches from roots on the CPU. The random walk is in interleaved_walks.cpp; the other strategies, which the paper
// compares with it, are here.

#include "cpu/walk/batch_walks.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/walk/batch.h"
#include "cpu/walk/interleaved_walks.h"

namespace bse {

namespace {

class Collector {
 public:
  explicit Collector(const WalkRequest& request)
      : request_(request),
        graph_(request.graph),
        target_(std::min(request.batch_size, request.graph.num_rows)),
        batch_(target_) {}

  // Writes the batch of root `index`.
  void collect(int64_t index, const WalkResult& result) {
    const auto root = static_cast<uint32_t>(request_.roots[index]);
    int32_t* nodes = result.nodes + index * request_.batch_size;
    batch_.begin(nodes, target_);
    if (request_.strategy == Strategy::kDepthFirst) {
      depth_first(root);
    } else {
      breadth_first(root);
    }
    result.steps[index] = result.restarts[index] = result.reroots[index] = 0;
    result.random_fills[index] = batch_.fill(request_, static_cast<uint32_t>(request_.walk_ids[index]));
    std::fill(nodes + target_, nodes + request_.batch_size, -1);
  }

 private:
  // Neighbors in row order. Also serves kNeighbors, which expands the root only, and kUniform, the root alone.
  void breadth_first(uint32_t root) {
    batch_.add(root);
    const bool one_level = request_.strategy == Strategy::kNeighbors;
    if (request_.strategy == Strategy::kUniform) return;
    for (int64_t next = 0; next < (one_level ? 1 : batch_.size()) && !batch_.full(); ++next) {
      const uint32_t row = batch_[next];
      for (uint32_t i = 0; i < graph_.degree(row) && !batch_.full(); ++i) batch_.add(graph_.neighbor_row(row, i));
    }
  }

  // Preorder; neighbors in row order.
  void depth_first(uint32_t root) {
    stack_.assign(1, root);
    while (!stack_.empty() && !batch_.full()) {
      const uint32_t row = stack_.back();
      stack_.pop_back();
      if (!batch_.add(row)) continue;
      for (uint32_t i = graph_.degree(row); i-- > 0;) stack_.push_back(graph_.neighbor_row(row, i));
    }
  }

  const WalkRequest& request_;
  const GraphView graph_;
  const int64_t target_;
  Batch batch_;
  std::vector<uint32_t> stack_;
};

}  // namespace

void walk_batches(const WalkRequest& request, const WalkResult& result, Monitor& monitor) {
  if (request.strategy == Strategy::kWalk) return interleaved_walks(request, result, monitor);
  ThreadTeam team(request.num_threads, monitor);
  std::vector<std::unique_ptr<Collector>> collectors(static_cast<size_t>(team.num_threads()));
  team.for_ranges(request.num_walks, 8, [&](int64_t begin, int64_t end, Worker& worker) {
    auto& collector = collectors[static_cast<size_t>(worker.index())];
    if (collector == nullptr) collector = std::make_unique<Collector>(request);
    for (int64_t walk = begin; walk < end && !worker.should_stop(); ++walk) collector->collect(walk, result);
  });
}

}  // namespace bse

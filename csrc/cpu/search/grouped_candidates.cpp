#include "cpu/search/grouped_candidates.h"

#include <memory>

#include "common/permutation.h"
#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

// State of one thread: the draw of the current group, and the current block of rows.
class GroupWorkspace {
 public:
  GroupWorkspace(const GraphSubset& subset, const BlockPlan& plan, const uint32_t* order, const Prefilter& prefilter,
                 const Edges& edges)
      : subset_(subset),
        margin_(prefilter.margin),
        order_(order),
        candidates_(subset, subset.request.num_candidates + 1, subset.request.num_rows),
        members_(plan.row_block),
        member_of_slot_(members_.num_slots()),
        block_(plan, subset.request.features, subset.request.documents, subset.request.selection, edges, prefilter),
        query_ids_(static_cast<size_t>(plan.row_block)),
        query_norms_(static_cast<size_t>(plan.row_block)),
        rows_(static_cast<size_t>(plan.row_block)),
        excluded_(static_cast<size_t>(plan.row_block)) {}

  // Finishes rows order[first, first + count) of the subset, which belong to one group.
  void run(int64_t group, int64_t first, int64_t count, Worker& worker) {
    if (group != group_) candidates_.draw_shared(group);
    group_ = group;
    for (int64_t i = 0; i < count; ++i) set_row(i, order_[first + i]);
    find_excluded(count);
    int64_t num_undecided = count;
    if (margin_ > 0.0 && block_.prefilter_pays() && !fill_block(&num_undecided, margin_, worker)) return;
    if (num_undecided > 0 && !fill_block(&num_undecided, 0.0, worker)) return;
    worker.add_done(count);
  }

 private:
  void set_row(int64_t i, int64_t row) {
    rows_[i] = row;
    query_ids_[i] = subset_.instance(row);
    query_norms_[i] = subset_.query_norms[row];
  }

  // Finishes the first *num_rows rows of the block, except those that the prefilter cannot decide. These are moved to
  // the front, and *num_rows becomes their number. Returns false if the worker should stop.
  bool fill_block(int64_t* num_rows, double margin, Worker& worker) {
    block_.begin(query_ids_.data(), query_norms_.data(), *num_rows, margin);
    if (!block_.offer(candidates_.ids(), candidates_.norms(), candidates_.size(), excluded_.data(), worker)) {
      return false;
    }
    int64_t num_undecided = 0;
    for (int64_t i = 0; i < *num_rows; ++i) {
      if (worker.should_stop()) return false;
      if (block_.finish_row(i, candidates_.ids(), rows_[i])) continue;
      set_row(num_undecided, rows_[i]);
      excluded_[num_undecided++] = excluded_[i];
    }
    *num_rows = num_undecided;
    return true;
  }

  // Finds the candidate that each row drops: itself if it was drawn, else the last candidate of the draw.
  void find_excluded(int64_t count) {
    members_.clear();
    for (int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<uint32_t>(rows_[i]);
      members_.insert(row);
      member_of_slot_[members_.find(row)] = static_cast<uint32_t>(i);
      excluded_[i] = candidates_.size() - 1;
    }
    for (int64_t c = 0; c < candidates_.size(); ++c) {
      const uint32_t row = candidates_.rows()[c];
      if (members_.contains(row)) excluded_[member_of_slot_[members_.find(row)]] = c;
    }
  }

  const GraphSubset& subset_;
  const double margin_;    // of the prefilter
  const uint32_t* order_;  // rows of the subset, group after group
  DrawnCandidates candidates_;
  IndexTable members_;
  std::vector<uint32_t> member_of_slot_;
  TopKBlock block_;
  std::vector<int64_t> query_ids_;
  std::vector<float> query_norms_;
  std::vector<int64_t> rows_;      // rows of the subset
  std::vector<int64_t> excluded_;  // candidate that each row drops
  int64_t group_ = -1;
};

}  // namespace

int64_t grouped_draw_bytes(const ProximityGraphRequest& request) {
  return DrawnCandidates::bytes(request.num_candidates + 1, request.num_rows) + 64 * BlockPlan::kMaxRows;
}

void build_with_grouped_candidates(const GraphSubset& subset, const BlockPlan& plan, const Prefilter& prefilter,
                                   const Edges& edges, ThreadTeam& team) {
  const ProximityGraphRequest& request = subset.request;
  const int64_t first_position = request.first_position(), count = request.end_position() - first_position;
  AlignedBuffer<uint32_t> order(count);
  const KeyedPermutation permutation(static_cast<uint32_t>(request.num_rows), request.seed, Purpose::kGroups, 0, 0);
  team.for_ranges(count, 4096, [&](int64_t begin, int64_t end, Worker&) {
    permutation.write(static_cast<uint32_t>(first_position + begin), end - begin, order.data() + begin);
  });

  // Each group is cut into row blocks. A thread that gets several blocks of a group in a row draws once for them.
  const int64_t rows_per_group = request.rows_per_group();
  const int64_t blocks_per_group = (rows_per_group + plan.row_block - 1) / plan.row_block;
  std::vector<std::unique_ptr<GroupWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_each(request.num_groups * blocks_per_group, [&](int64_t chunk, Worker& worker) {
    const int64_t group = chunk / blocks_per_group;  // of those to build
    const int64_t group_end = std::min((group + 1) * rows_per_group, count);
    const int64_t first = group * rows_per_group + chunk % blocks_per_group * plan.row_block;
    if (first >= group_end) return;
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) {
      workspace = std::make_unique<GroupWorkspace>(subset, plan, order.data(), prefilter, edges);
    }
    workspace->run(request.first_group + group, first, std::min(plan.row_block, group_end - first), worker);
  });
}

}  // namespace bse

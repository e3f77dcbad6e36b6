// Proximity graph on the CPU: groups of rows share a candidate draw, so that the gather becomes dense block products.

#include <memory>
#include <numeric>

#include "../common/permutation.h"
#include "candidate_draw.h"
#include "graph_build.h"
#include "row_terms.h"
#include "screening.h"
#include "top_k_block.h"

namespace bse {

namespace {

// One thread's state: the draw of the group it works on, and the block it fills.
class GroupWorkspace {
 public:
  GroupWorkspace(const ProximityGraphRequest& request, const BlockPlan& plan, const uint32_t* order,
                 const float* query_terms, const float* key_terms, double screening_margin, const Links& links)
      : request_(request),
        screening_margin_(screening_margin),
        shared_(request.rows_per_draw > 1),
        num_drawn_(request.num_candidates + (shared_ ? 1 : 0)),
        order_(order),
        query_terms_(query_terms),
        key_terms_(key_terms),
        draw_(static_cast<uint32_t>(num_drawn_),
              static_cast<uint32_t>(shared_ ? request.num_rows : request.num_rows - 1), request.seed),
        members_(shared_ ? plan.row_block : 1),
        member_of_slot_(members_.num_slots()),
        block_(plan, request.features, request.keys, request.selection, links),
        candidate_ids_(static_cast<size_t>(num_drawn_)),
        candidate_terms_(static_cast<size_t>(num_drawn_)),
        candidate_pool_(static_cast<size_t>(num_drawn_)),
        query_ids_(static_cast<size_t>(plan.row_block)),
        block_terms_(static_cast<size_t>(plan.row_block)),
        block_rows_(static_cast<size_t>(plan.row_block)),
        excluded_(static_cast<size_t>(plan.row_block)) {}

  static int64_t bytes(const ProximityGraphRequest& request) {
    const int64_t num_drawn = request.num_candidates + 1;
    return 16 * num_drawn + CandidateDraw::bytes(num_drawn, request.num_rows) + 64 * 256;
  }

  // Rows order[first .. first + count) of the pool, all of one group.
  void run(int64_t group, int64_t first, int64_t count, Worker& worker) {
    if (group != group_) draw_candidates(group, first);
    for (int64_t i = 0; i < count; ++i) set_block_row(i, pool_row(first + i));
    find_excluded(count);
    int64_t num_undecided = count;
    if (screening_margin_ > 0.0 && !fill_block(&num_undecided, screening_margin_, worker)) return;
    if (num_undecided > 0 && !fill_block(&num_undecided, 0.0, worker)) return;
    worker.add_done(count);
  }

 private:
  int64_t pool_row(int64_t position) const { return order_ != nullptr ? order_[position] : position; }
  int64_t instance(int64_t row) const { return request_.rows != nullptr ? request_.rows[row] : row; }

  void draw_candidates(int64_t group, int64_t own_row) {
    const uint32_t* drawn = draw_(static_cast<uint32_t>(group));
    for (int64_t c = 0; c < num_drawn_; ++c) {
      int64_t row = drawn[c];
      if (!shared_ && row >= own_row) ++row;  // a draw over the other rows
      candidate_pool_[c] = static_cast<uint32_t>(row);
      candidate_ids_[c] = instance(row);
      candidate_terms_[c] = key_terms_[row];
    }
    group_ = group;
  }

  void set_block_row(int64_t i, int64_t row) {
    block_rows_[i] = row;
    query_ids_[i] = instance(row);
    block_terms_[i] = query_terms_[row];
  }

  // Finishes the first *num_rows rows of the block, but for those that screening cannot decide: *num_rows of them come
  // first then. Returns false if the worker was told to stop.
  bool fill_block(int64_t* num_rows, double margin, Worker& worker) {
    block_.begin(query_ids_.data(), block_terms_.data(), *num_rows, margin);
    if (!block_.offer(candidate_ids_.data(), candidate_terms_.data(), num_drawn_, excluded_.data(), worker)) {
      return false;
    }
    int64_t num_undecided = 0;
    for (int64_t i = 0; i < *num_rows; ++i) {
      if (block_.finish_row(i, candidate_ids_.data(), block_rows_[i])) continue;
      set_block_row(num_undecided, block_rows_[i]);
      excluded_[num_undecided++] = excluded_[i];
    }
    *num_rows = num_undecided;
    return true;
  }

  // A row drops itself if it was drawn, else the last candidate of the shared draw.
  void find_excluded(int64_t count) {
    if (!shared_) {
      excluded_[0] = -1;
      return;
    }
    members_.clear();
    for (int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<uint32_t>(block_rows_[i]);
      members_.insert(row);
      member_of_slot_[members_.find(row)] = static_cast<uint32_t>(i);
      excluded_[i] = num_drawn_ - 1;
    }
    for (int64_t c = 0; c < num_drawn_; ++c) {
      if (members_.contains(candidate_pool_[c])) excluded_[member_of_slot_[members_.find(candidate_pool_[c])]] = c;
    }
  }

  const ProximityGraphRequest& request_;
  const double screening_margin_;
  const bool shared_;
  const int64_t num_drawn_;
  const uint32_t* order_;  // [R] pool rows by group, or null: one group a row
  const float* query_terms_;
  const float* key_terms_;
  CandidateDraw draw_;
  IndexTable members_;
  std::vector<uint32_t> member_of_slot_;
  TopKBlock block_;
  std::vector<int64_t> candidate_ids_;
  std::vector<float> candidate_terms_;
  std::vector<uint32_t> candidate_pool_;
  std::vector<int64_t> query_ids_;
  std::vector<float> block_terms_;
  std::vector<int64_t> block_rows_;  // of the pool
  std::vector<int64_t> excluded_;
  int64_t group_ = -1;
};

}  // namespace

void proximity_graph(const ProximityGraphRequest& request, const Links& links, Monitor& monitor) {
  const int64_t num_rows = request.num_rows;
  const int64_t rows_per_draw = std::min(request.rows_per_draw, num_rows);
  const bool shared = request.rows_per_draw > 1;
  const int64_t fixed_bytes = num_rows * ((shared ? 4 : 0) + (request.two_towers ? 8 : 4));
  const BlockPlan plan = BlockPlan::fit(request.selection, rows_per_draw, request.num_candidates + 1,
                                        request.features.dim, request.num_threads, GroupWorkspace::bytes(request),
                                        fixed_bytes, request.max_memory_bytes - fixed_bytes);
  links.prefer_huge_pages(num_rows, request.selection.num_neighbors);
  ThreadTeam team(plan.num_threads, monitor);

  AlignedBuffer<float> query_terms(num_rows), other_terms(request.two_towers ? num_rows : 0);
  compute_row_terms(team, request.features, "features", request.rows, num_rows, request.selection.metric,
                    query_terms.data());
  if (request.two_towers) {
    compute_row_terms(team, request.keys, "keys", request.rows, num_rows, request.selection.metric, other_terms.data());
  }
  const float* key_terms = request.two_towers ? other_terms.data() : query_terms.data();

  // A row of its own draw is bound by the gather, not by the products.
  const double margin = shared ? screening_margin(request.features, query_terms.data(), request.keys, key_terms,
                                                  request.rows, num_rows, request.selection, links)
                               : 0.0;

  AlignedBuffer<uint32_t> order(shared ? num_rows : 0);
  if (shared) {
    const KeyedPermutation permutation(static_cast<uint32_t>(num_rows), request.seed, Purpose::kGroups, 0, 0);
    team.for_ranges(num_rows, 4096, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t i = begin; i < end; ++i) order[i] = permutation(static_cast<uint32_t>(i));
    });
  }

  // A group is cut into row blocks; consecutive blocks of a group reuse its draw.
  const int64_t blocks_per_group = (rows_per_draw + plan.row_block - 1) / plan.row_block;
  const int64_t num_groups = (num_rows + rows_per_draw - 1) / rows_per_draw;
  std::vector<std::unique_ptr<GroupWorkspace>> workspaces(static_cast<size_t>(plan.num_threads));
  team.for_each(num_groups * blocks_per_group, [&](int64_t chunk, Worker& worker) {
    const int64_t group = chunk / blocks_per_group;
    const int64_t group_end = std::min((group + 1) * rows_per_draw, num_rows);
    const int64_t first = group * rows_per_draw + chunk % blocks_per_group * plan.row_block;
    if (first >= group_end) return;
    auto& workspace = workspaces[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) {
      workspace = std::make_unique<GroupWorkspace>(request, plan, shared ? order.data() : nullptr, query_terms.data(),
                                                   key_terms, margin, links);
    }
    workspace->run(group, first, std::min(plan.row_block, group_end - first), worker);
  });
}

}  // namespace bse

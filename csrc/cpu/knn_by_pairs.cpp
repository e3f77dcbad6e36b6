// Rows are taken in blocks, in order. A block meets the columns from its own on; what it scores against a later row is
// offered to that row's buffer too, so that a block, when its turn comes, has met all columns before it. Hence every
// buffer sees its candidates in ascending order, as ties demand, on any number of threads: the columns of a block are
// split into one part a thread, whose finds for the rows of the block are appended in order, and whose columns no
// other thread touches.
//
// The first columns are met by all rows beforehand, in the usual way. It costs their pairs twice, but then every row
// has a threshold from the start, and few scores pass.

#include "knn_by_pairs.h"

#include <memory>

#include "isa.h"
#include "top_k_block.h"

namespace bse {

namespace {

class KnnByPairs {
 public:
  KnnByPairs(const KnnRequest& request, const BlockPlan& plan, const int64_t* ids, const float* terms,
             const Links& links, ThreadTeam& team)
      : request_(request),
        plan_(plan),
        kernels_(similarity_kernels()),
        ids_(ids),
        terms_(terms),
        links_(links),
        team_(team),
        num_rows_(request.num_base),
        num_selected_(request.selection.num_neighbors + request.selection.range_min),
        storage_(num_rows_, plan.top_k_capacity),
        entry_scores_(num_rows_),
        part_storage_(team.num_threads() * plan.row_block, plan.top_k_capacity),
        workspaces_(static_cast<size_t>(team.num_threads())) {
    buffers_.reserve(static_cast<size_t>(num_rows_));
    for (int64_t row = 0; row < num_rows_; ++row) buffers_.push_back(storage_.buffer(row, num_selected_));
  }

  void run() {
    const int64_t num_first = std::min(num_rows_, kBlocksMetByAll * plan_.row_block);
    team_.for_ranges(num_rows_, plan_.row_block,
                     [&](int64_t begin, int64_t end, Worker& worker) { meet_first(begin, end, num_first, worker); });
    for (int64_t begin = 0; begin < num_rows_; begin += plan_.row_block) {
      const int64_t end = std::min(begin + plan_.row_block, num_rows_);
      const bool for_both = begin >= num_first;
      meet_rest(begin, end, for_both ? begin : num_first, for_both);
      finish(begin, end);
    }
  }

 private:
  static constexpr int64_t kBlocksMetByAll = 2;

  struct Workspace {
    Workspace(const KnnRequest& request, const BlockPlan& plan, const Links& links)
        : scorer(plan, request.queries, request.base, request.selection),
          writer(request.selection, links, plan.top_k_capacity),
          hits(plan.candidate_block + 16) {}

    BlockScorer scorer;
    LinkWriter writer;
    AlignedBuffer<uint32_t> hits;
  };

  Workspace& workspace(const Worker& worker) {
    auto& workspace = workspaces_[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<Workspace>(request_, plan_, links_);
    return *workspace;
  }

  // Rows [begin, end) against columns [0, num_columns).
  void meet_first(int64_t begin, int64_t end, int64_t num_columns, Worker& worker) {
    BlockScorer& scorer = workspace(worker).scorer;
    scorer.begin(ids_ + begin, terms_ + begin, end - begin);
    scorer.score(ids_, terms_, num_columns, worker, [&](int64_t i, float* scores, int64_t first, int64_t size) {
      drop_itself(begin + i, scores, first, size);
      buffers_[begin + i].add(kernels_, scores, size, static_cast<uint32_t>(first));
    });
    for (int64_t row = begin; row < end; ++row) entry_scores_[row] = buffers_[row].entry_score();
  }

  // Rows [begin, end) against columns [first_column, num_rows), and if for_both those beyond `end` against these rows.
  void meet_rest(int64_t begin, int64_t end, int64_t first_column, bool for_both) {
    const int num_parts = team_.num_threads();
    const int64_t width = kernels_.panel_width;
    const int64_t num_panels = (num_rows_ - first_column + width - 1) / width;
    parts_.assign(static_cast<size_t>(num_parts), {});
    team_.for_each(num_parts, [&](int64_t part, Worker& worker) {
      std::vector<TopKBuffer>& found = parts_[static_cast<size_t>(part)];
      for (int64_t row = begin; row < end; ++row) {
        found.push_back(part_storage_.buffer(part * plan_.row_block + row - begin, num_selected_));
        found.back().take_threshold(buffers_[row]);
      }
      const int64_t part_begin = first_column + num_panels * part / num_parts * width;
      const int64_t part_end = std::min(num_rows_, first_column + num_panels * (part + 1) / num_parts * width);
      Workspace& own = workspace(worker);
      own.scorer.begin(ids_ + begin, terms_ + begin, end - begin);
      own.scorer.score(ids_ + part_begin, terms_ + part_begin, part_end - part_begin, worker,
                       [&](int64_t i, float* scores, int64_t first, int64_t size) {
                         const int64_t column = part_begin + first;
                         drop_itself(begin + i, scores, column, size);
                         found[i].add(kernels_, scores, size, static_cast<uint32_t>(column));
                         const int64_t skipped = std::max<int64_t>(0, end - column);
                         if (for_both && skipped < size) {
                           offer_to_columns(begin + i, scores + skipped, column + skipped, size - skipped,
                                            own.hits.data());
                         }
                       });
    });
  }

  void offer_to_columns(int64_t row, const float* scores, int64_t first_column, int64_t count, uint32_t* hits) {
    const int64_t num_hits = kernels_.find_entries(scores, entry_scores_.data() + first_column, count, hits);
    for (int64_t h = 0; h < num_hits; ++h) {
      const int64_t column = first_column + hits[h];
      TopKBuffer& buffer = buffers_[column];
      if (buffer.push(kernels_, scores[hits[h]], static_cast<uint32_t>(row)))
        entry_scores_[column] = buffer.entry_score();
    }
  }

  void drop_itself(int64_t row, float* scores, int64_t first, int64_t size) const {
    if (row >= first && row < first + size) scores[row - first] = std::numeric_limits<float>::quiet_NaN();
  }

  void finish(int64_t begin, int64_t end) {
    constexpr int64_t kGrain = 32;
    team_.for_ranges(end - begin, kGrain, [&](int64_t first, int64_t last, Worker& worker) {
      LinkWriter& writer = workspace(worker).writer;
      for (int64_t i = first; i < last; ++i) {
        TopKBuffer& buffer = buffers_[begin + i];
        for (const auto& found : parts_) buffer.append(kernels_, found[i]);
        buffer.finish(kernels_, request_.selection.range_min);
        writer.write(buffer, ids_, begin + i);
      }
      worker.add_done(last - first);
    });
  }

  const KnnRequest& request_;
  const BlockPlan plan_;
  const SimilarityKernels& kernels_;
  const int64_t* ids_;
  const float* terms_;
  const Links& links_;
  ThreadTeam& team_;
  const int64_t num_rows_, num_selected_;
  TopKStorage storage_;
  std::vector<TopKBuffer> buffers_;    // [num_rows]
  AlignedBuffer<float> entry_scores_;  // [num_rows] entry_score() of each buffer
  TopKStorage part_storage_;
  std::vector<std::vector<TopKBuffer>> parts_;  // [num_parts][row_block]
  std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace

int64_t knn_by_pairs_bytes(const BlockPlan& plan, int64_t num_rows) {
  const auto per_buffer = static_cast<int64_t>(sizeof(TopKBuffer));
  const int64_t part_rows = plan.num_threads * plan.row_block;
  return TopKStorage::bytes(num_rows + part_rows, plan.top_k_capacity) + (num_rows + part_rows) * per_buffer +
         4 * num_rows + plan.num_threads * 4 * (plan.candidate_block + 16);
}

void knn_by_pairs(const KnnRequest& request, const BlockPlan& plan, const int64_t* ids, const float* terms,
                  const Links& links, ThreadTeam& team) {
  KnnByPairs(request, plan, ids, terms, links, team).run();
}

}  // namespace bse

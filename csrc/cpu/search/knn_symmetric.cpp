// Exact kNN graph that scores each pair of instances once. The scores form a symmetric matrix, whose rows and columns
// are the same instances. Every row has a buffer of its best scores so far (top_k_buffer.h).
//
// Row blocks are processed in order, each against the columns from its own first row on. A score is offered to the
// buffer of its row. If its column is in a later block, the score is offered to the buffer of that later row too. So
// when a block's turn comes, its buffers have already seen all columns before it.
//
// Every buffer thus sees its candidates in ascending order, as ties require, on any number of threads. The columns are
// split into one part per thread. Each part collects into buffers of its own for the rows of the block, which are
// appended in order at the end. Only the thread of a part writes to the buffers of its columns.
//
// Few scores enter a buffer, because every row has a threshold from the start: the score at a certain rank among evenly
// spaced columns. This rank is chosen such that at least num_selected scores of the row almost certainly exceed the
// threshold. If they do not, the row is returned, and the caller searches it again.
//
// Approximate scores (prefilter.h) take the same path with a margin. When a row is finished, candidates too close to
// call are rescored exactly.

#include "cpu/search/knn_symmetric.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>

#include "cpu/simd/dispatch.h"
#include "cpu/topk/top_k_block.h"

namespace bse {

namespace {

constexpr int64_t kMinSampled = 512, kMaxSampled = 2048;

// Returns the number of columns to sample. It grows with num_rows, where a tighter threshold saves more.
int64_t num_sampled_columns(int64_t num_rows) { return std::min(std::max(num_rows / 16, kMinSampled), kMaxSampled); }

// Returns the rank among the sampled columns whose score is almost certainly exceeded by num_selected of all num_rows
// columns. It is the expected number of sampled columns among the best, plus 3.5 Poisson standard deviations, plus 3.
int64_t sample_rank(int64_t num_selected, int64_t num_rows) {
  const double num_sampled = static_cast<double>(num_sampled_columns(num_rows));
  const double expected = static_cast<double>(num_selected) * num_sampled / static_cast<double>(num_rows);
  return static_cast<int64_t>(std::ceil(expected + 3.5 * std::sqrt(expected) + 3.0));
}

class SymmetricKnn {
 public:
  SymmetricKnn(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter, const int64_t* ids,
               const float* norms, const Edges& edges, ThreadTeam& team)
      : request_(request),
        plan_(plan),
        prefilter_(prefilter),
        kernels_(kernel_table()),
        ids_(ids),
        norms_(norms),
        edges_(edges),
        team_(team),
        num_rows_(request.num_base),
        num_sampled_(num_sampled_columns(num_rows_)),
        num_selected_(request.selection.num_neighbors + request.selection.range_min),
        storage_(num_rows_, plan.top_k_capacity),
        entry_scores_(num_rows_),
        part_storage_(team.num_threads() * plan.row_block, plan.top_k_capacity),
        workspaces_(static_cast<size_t>(team.num_threads())) {
    buffers_.reserve(static_cast<size_t>(num_rows_));
    for (int64_t row = 0; row < num_rows_; ++row) {
      buffers_.push_back(storage_.buffer(row, num_selected_, prefilter.margin));
    }
  }

  // Sets the thresholds of all rows; must be called first. Returns for how many rows the prefilter seems useless,
  // because too many scores are within its margin.
  int64_t set_thresholds() {
    std::atomic<int64_t> num_close{0};
    const int64_t rank = sample_rank(num_selected_, num_rows_);
    std::vector<int64_t> columns(num_sampled_), ids(num_sampled_);
    std::vector<float> norms(num_sampled_);
    for (int64_t s = 0; s < num_sampled_; ++s) {
      columns[s] = s * num_rows_ / num_sampled_;
      ids[s] = ids_[columns[s]];
      norms[s] = norms_[columns[s]];
    }
    team_.for_ranges(num_rows_, plan_.row_block, [&](int64_t begin, int64_t end, Worker& worker) {
      std::vector<TopKBuffer> samples;
      for (int64_t row = begin; row < end; ++row) samples.push_back(storage_.buffer(row, rank));
      BlockScorer& scorer = workspace(worker).scorer;
      start(scorer, begin, end);
      scorer.score(ids.data(), norms.data(), num_sampled_, worker,
                   [&](int64_t i, float* scores, int64_t first, int64_t size) {
                     const int64_t row = begin + i;
                     const auto own = std::lower_bound(columns.begin(), columns.end(), row) - columns.begin();
                     if (own >= first && own < first + size && columns[own] == row) {
                       scores[own - first] = std::numeric_limits<float>::quiet_NaN();
                     }
                     samples[static_cast<size_t>(i)].add(kernels_, scores, size, static_cast<uint32_t>(first));
                   });
      for (int64_t row = begin; row < end; ++row) {
        TopKBuffer& sample = samples[static_cast<size_t>(row - begin)];
        sample.finish(kernels_, 0);
        if (sample.size() == rank) {
          buffers_[row].set_threshold(*std::min_element(sample.scores(), sample.scores() + rank));
        }
        num_close += prefilter_.is_on() && is_close(sample);
        entry_scores_[row] = buffers_[row].entry_score();
      }
    });
    return num_close;
  }

  // Writes the edges. Returns the rows that could not be finished.
  std::vector<int64_t> run() {
    for (int64_t begin = 0; begin < num_rows_; begin += plan_.row_block) {
      const int64_t end = std::min(begin + plan_.row_block, num_rows_);
      score_block_pair(begin, end);
      finish(begin, end);
    }
    std::vector<int64_t> short_rows;
    for (int64_t row = 0; row < num_rows_; ++row) {
      if (buffers_[row].size() == 0) short_rows.push_back(row);
    }
    return short_rows;
  }

 private:
  struct Workspace {
    Workspace(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter, const Edges& edges)
        : scorer(plan, request.queries, request.base, request.selection, prefilter),
          rescorer(plan, request.queries, request.base, request.selection,
                   request.selection.sort || edges.scores != nullptr),
          writer(request.selection, edges, plan.top_k_capacity),
          hits(plan.candidate_block + 16) {}

    BlockScorer scorer;
    BorderlineRescorer rescorer;
    EdgeWriter writer;
    AlignedBuffer<uint32_t> hits;
  };

  Workspace& workspace(const Worker& worker) {
    auto& workspace = workspaces_[static_cast<size_t>(worker.index())];
    if (workspace == nullptr) workspace = std::make_unique<Workspace>(request_, plan_, prefilter_, edges_);
    return *workspace;
  }

  void start(BlockScorer& scorer, int64_t begin, int64_t end) const {
    scorer.begin(ids_ + begin, norms_ + begin, end - begin, prefilter_.is_on());
  }

  // Estimates from the sample whether a row's buffer cannot hold all columns within the margin of its best.
  bool is_close(const TopKBuffer& sample) const {
    const double share = static_cast<double>(num_sampled_) / static_cast<double>(num_rows_);
    const auto last = static_cast<int64_t>(static_cast<double>(num_selected_) * share);
    if (last >= sample.size()) return true;
    const auto room = static_cast<int64_t>(static_cast<double>(plan_.top_k_capacity - kernels_.panel_width) * share);
    const int64_t most = std::min(std::max(last + 4, room), sample.size() - 1);
    std::vector<float> best(sample.scores(), sample.scores() + sample.size());
    std::nth_element(best.begin(), best.begin() + last, best.end(), std::greater<>());
    const double limit = static_cast<double>(best[static_cast<size_t>(last)]) - prefilter_.margin;
    return std::count_if(best.begin(), best.end(), [&](float score) { return score > limit; }) > most;
  }

  // Scores rows [begin, end) against themselves and all later rows, for both sides of each pair.
  void score_block_pair(int64_t begin, int64_t end) {
    const int num_parts = team_.num_threads();
    const int64_t width = kernels_.panel_width;
    const int64_t num_panels = (num_rows_ - begin + width - 1) / width;
    parts_.assign(static_cast<size_t>(num_parts), {});
    team_.for_each(num_parts, [&](int64_t part, Worker& worker) {
      std::vector<TopKBuffer>& found = parts_[static_cast<size_t>(part)];
      for (int64_t row = begin; row < end; ++row) {
        found.push_back(part_storage_.buffer(part * plan_.row_block + row - begin, num_selected_, prefilter_.margin));
        found.back().take_threshold(buffers_[row]);
      }
      const int64_t part_begin = begin + num_panels * part / num_parts * width;
      const int64_t part_end = std::min(num_rows_, begin + num_panels * (part + 1) / num_parts * width);
      Workspace& own = workspace(worker);
      start(own.scorer, begin, end);
      own.scorer.score(ids_ + part_begin, norms_ + part_begin, part_end - part_begin, worker,
                       [&](int64_t i, float* scores, int64_t first, int64_t size) {
                         const int64_t column = part_begin + first;
                         drop_itself(begin + i, scores, column, size);
                         found[i].add(kernels_, scores, size, static_cast<uint32_t>(column));
                         const int64_t skipped = std::max<int64_t>(0, end - column);
                         if (skipped < size) {
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
      Workspace& own = workspace(worker);
      own.rescorer.begin(ids_, norms_, prefilter_.margin, num_rows_ / 8);
      for (int64_t i = first; i < last && !worker.should_stop(); ++i) {
        TopKBuffer& buffer = buffers_[begin + i];
        for (const auto& found : parts_) buffer.append(kernels_, found[i]);
        if (!finish(own, buffer, begin + i)) {
          buffer.clear();
          continue;
        }
        own.writer.write(buffer, ids_, begin + i);
        worker.add_done(1);
      }
    });
  }

  // Returns false if the buffer does not determine the best candidates of the row.
  bool finish(Workspace& own, TopKBuffer& buffer, int64_t row) {
    if (buffer.size() < num_selected_) return false;
    if (prefilter_.is_on()) {
      return own.rescorer.prepare(buffer, ids_[row]) && own.rescorer.resolve(buffer, ids_[row], norms_[row]);
    }
    buffer.finish(kernels_, request_.selection.range_min);
    return true;
  }

  const KnnRequest& request_;
  const BlockPlan plan_;
  const Prefilter prefilter_;
  const KernelTable& kernels_;
  const int64_t* ids_;
  const float* norms_;
  const Edges& edges_;
  ThreadTeam& team_;
  const int64_t num_rows_, num_sampled_, num_selected_;
  TopKStorage storage_;
  std::vector<TopKBuffer> buffers_;    // [num_rows]
  AlignedBuffer<float> entry_scores_;  // [num_rows] entry_score() of each buffer
  TopKStorage part_storage_;
  std::vector<std::vector<TopKBuffer>> parts_;  // [num_parts][row_block]
  std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace

bool can_search_symmetric(int64_t num_selected, int64_t num_rows) {
  return num_rows >= 2 * kMinSampled && sample_rank(num_selected, num_rows) <= num_sampled_columns(num_rows) / 2;
}

int64_t knn_symmetric_bytes(const BlockPlan& plan, int64_t num_rows, int64_t dim) {
  const auto per_buffer = static_cast<int64_t>(sizeof(TopKBuffer));
  return TopKStorage::bytes(num_rows, plan.top_k_capacity) + (per_buffer + 4) * num_rows +
         plan.num_threads * (plan.workspace_bytes(dim) + 4 * (plan.candidate_block + 16));
}

std::vector<int64_t> knn_symmetric(const KnnRequest& request, const BlockPlan& plan, const Prefilter& prefilter,
                                   const int64_t* ids, const float* norms, const Edges& edges, ThreadTeam& team) {
  if (prefilter.is_on()) {
    SymmetricKnn approximate(request, plan, prefilter, ids, norms, edges, team);
    if (approximate.set_thresholds() <= request.num_base / 8) return approximate.run();
  }
  SymmetricKnn exact(request, plan, Prefilter{}, ids, norms, edges, team);
  exact.set_thresholds();
  return exact.run();
}

}  // namespace bse

// Counts a row's out-neighbors in each batch of a partition, and lists these batches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/partition_rules.h"
#include "common/random_stream.h"
#include "cpu/runtime/thread_team.h"
#include "cpu/types/graph_view.h"

namespace bse {

// Each thread has one, with a counter per batch, so that counting needs no hash table. There are no branches on owners,
// which are unpredictable. Owners are read in a separate loop, so that their cache misses overlap.
class VoteTally {
 public:
  static constexpr uint32_t kMaxVotes = partition_rules::kMaxVotes;

  explicit VoteTally(size_t num_batches) : count_(num_batches, 0) {}

  // Asks `num_asked` (at most kMaxVotes) consecutive out-neighbors, or all if there are fewer. The random word
  // `offset_word` picks the first one. owner: [num_rows] batch of each row; rows with a negative owner do not count
  void count(const GraphView& graph, const int32_t* owner, uint32_t row, uint32_t offset_word, uint32_t num_asked) {
    for (const int32_t batch : *this) count_[static_cast<size_t>(batch)] = 0;
    num_batches_ = 0;
    const uint32_t degree = graph.degree(row), first = mulhi(offset_word, degree);
    num_asked = std::min(num_asked, degree);
    const uint32_t before_wrap = std::min(num_asked, degree - first);
    num_voters_ = 0;
    if (graph.row_of == nullptr) {
      collect<false>(graph, owner, row, first, before_wrap);
      collect<false>(graph, owner, row, 0, num_asked - before_wrap);
    } else {
      collect<true>(graph, owner, row, first, before_wrap);
      collect<true>(graph, owner, row, 0, num_asked - before_wrap);
    }
    for (uint32_t i = 0; i < num_voters_; ++i) {
      const int32_t batch = voters_[i];
      batches_[num_batches_] = batch;
      num_batches_ += count_[static_cast<size_t>(batch)]++ == 0;
    }
  }

  // Prefetches the neighbors that a later count() of this row reads. Rows vote at irregular distances, which hardware
  // prefetchers do not predict.
  static void prefetch(const GraphView& graph, uint32_t row) {
    constexpr int64_t kLine = 64 / sizeof(int32_t);
    const int32_t* neighbors = graph.neighbors + int64_t{row} * graph.num_neighbors;
    for (int64_t i = 0; i < std::min<int64_t>(graph.num_neighbors, kMaxVotes); i += kLine) {
      __builtin_prefetch(neighbors + i);
    }
  }

  uint32_t votes(int32_t batch) const { return count_[static_cast<size_t>(batch)]; }

  // The batches with votes, in the order of their first vote.
  const int32_t* begin() const { return batches_; }
  const int32_t* end() const { return batches_ + num_batches_; }

 private:
  template <bool kIsSubset>
  void collect(const GraphView& graph, const int32_t* owner, uint32_t row, uint32_t first, uint32_t num_asked) {
    const int32_t* neighbors = graph.neighbors + int64_t{row} * graph.num_neighbors + first;
    uint32_t num_voters = num_voters_;
    for (uint32_t i = 0; i < num_asked; ++i) {
      const int32_t id = graph.checked_id(neighbors[i], row);
      const int32_t batch = owner[kIsSubset ? graph.row_of_checked(id, row) : static_cast<uint32_t>(id)];
      voters_[num_voters] = batch;
      num_voters += batch >= 0;
    }
    num_voters_ = num_voters;
  }

  std::vector<uint16_t> count_;     // [num_batches]
  int32_t voters_[kMaxVotes + 1];   // batches of the neighbors asked; one spare place for branch-free writes
  int32_t batches_[kMaxVotes + 1];  // the distinct ones, likewise
  uint32_t num_voters_ = 0, num_batches_ = 0;
};

}  // namespace bse

// Counts a row's out-neighbors in each batch of a partition, and finds the batches with the most.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "common/partition_rules.h"
#include "common/random_stream.h"
#include "cpu/runtime/aligned_buffer.h"
#include "cpu/simd/dispatch.h"
#include "cpu/types/graph_view.h"

namespace bse {

// Each thread has one, with a counter per batch, so that counting needs no hash table. Owners are unpredictable, so
// there are no branches on them. A loop of its own looks them up, so that its cache misses overlap. Then a SIMD kernel
// drops the rows without a batch, and the others are counted.
//
// It is aligned to two cache lines, because some processors fetch lines in pairs. Two threads that write to one pair
// would slow each other down.
class alignas(128) VoteTally {
 public:
  static constexpr uint32_t kMaxVotes = partition_rules::kMaxVotes;

  // All batches are open.
  explicit VoteTally(int64_t num_batches) : counts_(num_batches), num_batches_(num_batches) { open_all(); }

  void open_all() { std::fill_n(counts_.data(), num_batches_, int16_t{0}); }

  // Closes the batches without room, and opens the others. room: [num_batches]
  void open_those_with(const int64_t* room) {
    for (int64_t batch = 0; batch < num_batches_; ++batch) counts_[batch] = room[batch] > 0 ? 0 : kClosed;
  }

  // Asks `num_asked` (at most kMaxVotes) consecutive out-neighbors, or all if there are fewer. The random word
  // `offset_word` picks the first one. owner: [num_rows] batch of each row; rows with a negative owner do not count
  template <class Owner>
  void ask(const GraphView& graph, const Owner* owner, uint32_t row, uint32_t offset_word, uint32_t num_asked) {
    const uint32_t degree = graph.degree(row);
    const uint32_t first = num_asked < degree ? mulhi(offset_word, degree) : 0;  // the order of votes does not matter
    num_asked = std::min(num_asked, degree);
    const uint32_t before_wrap = std::min(num_asked, degree - first);
    if (graph.row_of == nullptr) {
      look_up<false>(graph, owner, row, first, 0, before_wrap);
      look_up<false>(graph, owner, row, 0, before_wrap, num_asked);
    } else {
      look_up<true>(graph, owner, row, first, 0, before_wrap);
      look_up<true>(graph, owner, row, 0, before_wrap, num_asked);
    }
    num_voters_ = keep_nonnegative_(voters_, num_asked);
  }

  // Prefetches the neighbors that a later ask() of this row reads. Rows vote at irregular distances, which hardware
  // prefetchers do not predict. Inlined by force: gcc deletes calls of functions that only prefetch.
  [[gnu::always_inline]] static void prefetch(const GraphView& graph, uint32_t row) {
    constexpr int64_t kLine = 64 / sizeof(int32_t);
    const int32_t* neighbors = graph.neighbors + int64_t{row} * graph.num_neighbors;
    for (int64_t i = 0; i < std::min<int64_t>(graph.num_neighbors, kMaxVotes); i += kLine) {
      __builtin_prefetch(neighbors + i);
    }
  }

  // Returns the number of votes for a batch.
  uint32_t votes(int32_t batch) const {
    uint32_t count = 0;
    for (int64_t i = 0; i < num_voters_; ++i) count += voters_[i] == batch;
    return count;
  }

  // Returns the most votes for an open batch, or 0.
  uint32_t most_votes() {
    const int32_t most = count();
    for (int64_t i = 0; i < num_voters_; ++i) clear(voters_[i]);
    return static_cast<uint32_t>(most);
  }

  // As most_votes(). If it is not 0, leaders() are the open batches with as many.
  uint32_t find_leaders() {
    const int32_t most = count();
    num_leaders_ = 0;
    for (int64_t i = 0; i < num_voters_; ++i) {
      const int32_t batch = voters_[i];
      leaders_[num_leaders_] = batch;
      num_leaders_ += counts_[batch] == most;  // only at its first vote, as it is cleared then
      clear(batch);
    }
    return static_cast<uint32_t>(most);
  }

  const int32_t* leaders() const { return leaders_; }
  int64_t num_leaders() const { return num_leaders_; }

 private:
  static constexpr int16_t kClosed = std::numeric_limits<int16_t>::min();  // below 0 even with all votes

  // voters_[i] = batch of the i-th neighbor after `first`, for i in [begin, end)
  template <bool kIsSubset, class Owner>
  void look_up(const GraphView& graph, const Owner* owner, uint32_t row, uint32_t first, uint32_t begin, uint32_t end) {
    const int32_t* neighbors = graph.neighbors + int64_t{row} * graph.num_neighbors + first - begin;
#pragma GCC unroll 4
    for (uint32_t i = begin; i < end; ++i) {
      const int32_t id = graph.checked_id(neighbors[i], row);
      voters_[i] = owner[kIsSubset ? graph.row_of_checked(id, row) : static_cast<uint32_t>(id)];
    }
  }

  // Counts the votes, and returns the most for an open batch.
  int32_t count() {
    int32_t most = 0;
    for (int64_t i = 0; i < num_voters_; ++i) most = std::max<int32_t>(most, ++counts_[voters_[i]]);
    return most;
  }

  void clear(int32_t batch) { counts_[batch] &= kClosed; }

  AlignedBuffer<int16_t> counts_;  // [num_batches] votes, plus kClosed if the batch is closed; no votes between calls
  int64_t num_batches_;
  decltype(KernelTable::keep_nonnegative) keep_nonnegative_ = kernel_table().keep_nonnegative;
  int32_t voters_[kMaxVotes] = {};  // batches of the neighbors asked
  int32_t leaders_[kMaxVotes + 1];  // one spare place for writes without a branch
  int64_t num_voters_ = 0, num_leaders_ = 0;
};

}  // namespace bse

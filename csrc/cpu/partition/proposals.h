// The proposals of rows to batches in one round of a partition.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/partition_rules.h"
#include "cpu/runtime/aligned_buffer.h"
#include "cpu/runtime/huge_pages.h"
#include "cpu/runtime/thread_team.h"

namespace bse {

struct Proposal {
  uint64_t rank;  // smaller is better
  uint32_t row;
  int32_t batch;  // negative if the row found none
};

// Groups proposals by batch with a counting sort. Each thread counts and moves a part of them. The order within a group
// depends on the threads.
class ProposalGroups {
 public:
  using Member = std::pair<uint64_t, uint32_t>;  // rank, row; no two are equal

  // num_rows: upper bound of the number of proposals
  ProposalGroups(int64_t num_rows, int64_t num_batches)
      : members_(num_rows), first_(static_cast<size_t>(num_batches) + 1, 0) {
    prefer_huge_pages(members_.data(), num_rows * static_cast<int64_t>(sizeof(Member)));
  }

  // proposals: [count]
  void group(const Proposal* proposals, int64_t count, ThreadTeam& team) {
    const auto num_batches = static_cast<int64_t>(first_.size()) - 1;
    const int64_t num_parts = std::clamp<int64_t>(count / (kRowsPerCounter * num_batches + 1), 1, team.num_threads());
    const auto for_part = [&](int64_t part, const auto& use) {
      for (int64_t i = count * part / num_parts; i < count * (part + 1) / num_parts; ++i) {
        if (proposals[i].batch >= 0) use(proposals[i], next_[part * num_batches + proposals[i].batch]);
      }
    };
    next_.assign(static_cast<size_t>(num_parts * num_batches), 0);
    team.for_each(num_parts, [&](int64_t part, Worker&) {
      for_part(part, [](const Proposal&, uint32_t& counter) { ++counter; });
    });
    uint32_t position = 0;
    for (int64_t batch = 0; batch < num_batches; ++batch) {
      first_[batch] = position;
      for (int64_t part = 0; part < num_parts; ++part) {
        position += std::exchange(next_[part * num_batches + batch], position);
      }
    }
    first_[num_batches] = position;
    team.for_each(num_parts, [&](int64_t part, Worker&) {
      for_part(part,
               [&](const Proposal& proposal, uint32_t& next) { members_[next++] = {proposal.rank, proposal.row}; });
    });
  }

  int64_t num_proposals() const { return first_.back(); }
  Member* begin(int64_t batch) { return members_.data() + first_[batch]; }
  Member* end(int64_t batch) { return members_.data() + first_[batch + 1]; }

 private:
  static constexpr int64_t kRowsPerCounter = 8;  // a part has at least so many rows for each of its counters

  AlignedBuffer<Member> members_;  // grouped by batch
  std::vector<uint32_t> first_;    // [num_batches + 1] first member of each batch
  std::vector<uint32_t> next_;     // [num_parts, num_batches] number of proposals, then place of the next one
};

}  // namespace bse

// The ordered candidate draw of one group of rows (defined in csrc/common/draw.h), with its scratch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/draw.h"
#include "cpu/runtime/index_table.h"
#include "cpu/simd/buffered_words.h"

namespace bse {

class CandidateDraw {
 public:
  CandidateDraw(uint32_t num_drawn, uint32_t n, uint64_t seed)
      : num_drawn_(num_drawn),
        n_(n),
        seed_(seed),
        is_sparse_(draw_is_sparse(num_drawn, n)),
        marks_(has_marks(num_drawn, n) ? n : 0),
        seen_(is_sparse_ && marks_.empty() ? num_drawn : 1),
        values_(is_sparse_ ? num_drawn : n) {}

  static int64_t bytes(int64_t num_drawn, int64_t n) {
    if (!draw_is_sparse(static_cast<uint32_t>(num_drawn), static_cast<uint32_t>(n))) return 4 * n;
    return 4 * num_drawn + (has_marks(num_drawn, n) ? n : IndexTable::bytes(num_drawn));
  }

  // Returns the draw of a group: [num_drawn], valid until the next call.
  const uint32_t* operator()(uint32_t group) {
    BufferedWordStream words(seed_, Purpose::kCandidates, 0, group, 0);
    if (!is_sparse_) {
      draw_dense(words, num_drawn_, n_, values_.data());
    } else if (marks_.empty()) {
      seen_.clear();
      draw_sparse(words, num_drawn_, n_, seen_, values_.data());
    } else {
      draw_marked(words);
    }
    return values_.data();
  }

 private:
  // Same result as draw_sparse(), with an array of marks for the set, and many words at a time.
  void draw_marked(BufferedWordStream& words) {
    if (++mark_ == 0) {
      std::fill(marks_.begin(), marks_.end(), uint8_t{0});
      mark_ = 1;
    }
    const uint32_t n = n_, num_drawn = num_drawn_;
    const uint8_t mark = mark_;
    uint8_t* marks = marks_.data();
    uint32_t* values = values_.data();
    uint32_t next_values[BufferedWordStream::kNumWords];
    for (uint32_t count = 0; count < num_drawn;) {
      int num_words = static_cast<int>(std::min<uint32_t>(num_drawn - count, BufferedWordStream::kNumWords));
      const uint32_t* next = words.peek(&num_words);
      uint32_t num_doubtful = 0;  // words that uniform_below() might skip; counted, so that there is no branch
      for (int w = 0; w < num_words; ++w) {
        const uint64_t product = uint64_t{next[w]} * n;
        next_values[w] = static_cast<uint32_t>(product >> 32);
        num_doubtful += static_cast<uint32_t>(product) < n;
      }
      if (num_doubtful > 0) {  // take the words before the first of these, or this word alone
        num_words = 0;
        while (next[num_words] * n >= n) ++num_words;
      }
      if (num_words > 0) {
        words.skip(num_words);
      } else {
        next_values[0] = words.next_below(n);
        num_words = 1;
      }
      for (int w = 0; w < num_words; ++w) {
        const uint32_t value = next_values[w];
        values[count] = value;
        count += marks[value] != mark;
        marks[value] = mark;
      }
    }
  }

  // Returns whether a mark per value replaces the hash table: as long as all marks fit in the L2 cache. Marks are
  // bytes, not bits, because updates of values that share a word would wait for each other.
  static bool has_marks(int64_t num_drawn, int64_t n) {
    constexpr int64_t kMaxMarks = 1 << 20;
    return n <= kMaxMarks && draw_is_sparse(static_cast<uint32_t>(num_drawn), static_cast<uint32_t>(n));
  }

  uint32_t num_drawn_, n_;
  uint64_t seed_;
  bool is_sparse_;
  std::vector<uint8_t> marks_;  // [n], or empty; marks_[value] == mark_ if this call has drawn the value
  uint8_t mark_ = 0;
  IndexTable seen_;
  std::vector<uint32_t> values_;
};

}  // namespace bse

// The ordered candidate draw of one group of rows, with the scratch it takes (csrc/common/draw.h says what it is).
#pragma once

#include <cstdint>
#include <vector>

#include "../common/draw.h"
#include "buffered_words.h"
#include "index_table.h"

namespace bse {

class CandidateDraw {
 public:
  CandidateDraw(uint32_t num_drawn, uint32_t n, uint64_t seed)
      : num_drawn_(num_drawn),
        n_(n),
        seed_(seed),
        is_sparse_(draw_is_sparse(num_drawn, n)),
        seen_bits_(has_bits(num_drawn, n) ? n / 64 + 1 : 0),
        seen_(is_sparse_ && !has_bits(num_drawn, n) ? num_drawn : 1),
        values_(is_sparse_ ? num_drawn : n) {}

  static int64_t bytes(int64_t num_drawn, int64_t n) {
    if (!draw_is_sparse(static_cast<uint32_t>(num_drawn), static_cast<uint32_t>(n))) return 4 * n;
    return 4 * num_drawn + (has_bits(num_drawn, n) ? n / 8 + 8 : IndexTable::bytes(num_drawn));
  }

  // The draw of a group, valid until the next call.      returns [num_drawn]
  const uint32_t* operator()(uint32_t group) {
    BufferedWordStream words(seed_, Purpose::kCandidates, 0, group, 0);
    if (!is_sparse_) {
      draw_dense(words, num_drawn_, n_, values_.data());
    } else if (seen_bits_.empty()) {
      seen_.clear();
      draw_sparse(words, num_drawn_, n_, seen_, values_.data());
    } else {
      Bits seen{seen_bits_.data()};
      draw_sparse(words, num_drawn_, n_, seen, values_.data());
      for (const uint32_t value : values_) seen_bits_[value / 64] = 0;
    }
    return values_.data();
  }

 private:
  struct Bits {
    uint64_t* words;

    bool insert(uint32_t value) {
      const uint64_t bit = uint64_t{1} << value % 64;
      const bool is_new = (words[value / 64] & bit) == 0;
      words[value / 64] |= bit;
      return is_new;
    }
  };

  // A bit for every value while they stay in L2; a hash table beyond.
  static bool has_bits(int64_t num_drawn, int64_t n) {
    constexpr int64_t kMostBits = 1 << 22;
    return n <= kMostBits && draw_is_sparse(static_cast<uint32_t>(num_drawn), static_cast<uint32_t>(n));
  }

  uint32_t num_drawn_, n_;
  uint64_t seed_;
  bool is_sparse_;
  std::vector<uint64_t> seen_bits_;  // [n / 64 + 1] all 0 between calls, or empty
  IndexTable seen_;
  std::vector<uint32_t> values_;
};

}  // namespace bse

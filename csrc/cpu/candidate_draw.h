// The ordered candidate draw of one group of rows, with the scratch it takes (csrc/common/draw.h says what it is).
#pragma once

#include <cstdint>
#include <vector>

#include "../common/draw.h"
#include "index_table.h"

namespace bse {

class CandidateDraw {
 public:
  CandidateDraw(uint32_t num_drawn, uint32_t n, uint64_t seed)
      : num_drawn_(num_drawn),
        n_(n),
        seed_(seed),
        seen_(draw_is_sparse(num_drawn, n) ? num_drawn : 1),
        values_(draw_is_sparse(num_drawn, n) ? num_drawn : n) {}

  static int64_t bytes(int64_t num_drawn, int64_t n) {
    return draw_is_sparse(static_cast<uint32_t>(num_drawn), static_cast<uint32_t>(n))
               ? IndexTable::bytes(num_drawn) + 4 * num_drawn
               : 4 * n;
  }

  // The draw of a group, valid until the next call.      returns [num_drawn]
  const uint32_t* operator()(uint32_t group) {
    WordStream words(seed_, Purpose::kCandidates, 0, group, 0);
    if (draw_is_sparse(num_drawn_, n_)) {
      seen_.clear();
      draw_sparse(words, num_drawn_, n_, seen_, values_.data());
    } else {
      draw_dense(words, num_drawn_, n_, values_.data());
    }
    return values_.data();
  }

 private:
  uint32_t num_drawn_, n_;
  uint64_t seed_;
  IndexTable seen_;
  std::vector<uint32_t> values_;
};

}  // namespace bse

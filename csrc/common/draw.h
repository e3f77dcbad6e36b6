// Ordered draws without replacement, exactly uniform at every n.
//
// draw(m, n) is the first m distinct values of an i.i.d. uniform sequence over [0, n). By symmetry, every ordered
// m-subset is equally likely. If 2 m <= n, each word is new with probability >= 1/2, and fewer than 1.4 m words are
// expected. Otherwise a Fisher-Yates shuffle that stops after m swaps gives the same distribution in m steps.
// The M candidates of a row come from such a draw. In both cases every set of M other rows is equally likely:
//   candidate_group_size = 1: The row has draw(M, n - 1) of its own. Values from its own index on move up by one.
//   candidate_group_size > 1: The rows of a group share draw(M + 1, n). Each row drops itself if it was drawn, or else
//                             the last value.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

// Maps a value in [0, n - 1) to a row in [0, n) other than `row`.
BSE_HOST_DEVICE inline uint32_t other_row(uint32_t drawn, uint32_t row) { return drawn + (drawn >= row ? 1 : 0); }

BSE_HOST_DEVICE inline bool draw_is_sparse(uint32_t num_drawn, uint32_t n) { return uint64_t{2} * num_drawn <= n; }

// Draws by rejecting repeated values. Words has next_below() as WordStream does. Set::insert(value) returns true if the
// value is new. out: [num_drawn].
template <class Words, class Set>
BSE_HOST_DEVICE inline void draw_sparse(Words& words, uint32_t num_drawn, uint32_t n, Set& seen, uint32_t* out) {
  for (uint32_t count = 0; count < num_drawn;) {
    const uint32_t value = words.next_below(n);
    if (seen.insert(value)) out[count++] = value;
  }
}

// Draws by a partial shuffle. values: [n], 0..n-1 in order; the first num_drawn entries become the draw.
template <class Words>
BSE_HOST_DEVICE inline void shuffle_front(Words& words, uint32_t num_drawn, uint32_t n, uint32_t* values) {
  for (uint32_t i = 0; i < num_drawn; ++i) {
    const uint32_t j = i + words.next_below(n - i);
    const uint32_t drawn = values[j];
    values[j] = values[i];
    values[i] = drawn;
  }
}

// As shuffle_front(), but initializes the values first.
template <class Words>
BSE_HOST_DEVICE inline void draw_dense(Words& words, uint32_t num_drawn, uint32_t n, uint32_t* values) {
  for (uint32_t i = 0; i < n; ++i) values[i] = i;
  shuffle_front(words, num_drawn, n, values);
}

}  // namespace bse

// Ordered draws without replacement, exactly uniform at every n.
//
// draw(m, n): the first m distinct values of an i.i.d. uniform sequence over [0, n). Every ordered m-subset is equally
// likely by symmetry. With 2 m <= n each word is new with probability >= 1/2, so fewer than 1.4 m words are expected;
// otherwise a Fisher-Yates shuffle stopped after m swaps gives the same distribution in m steps.
// Candidates of a row ("each row's own distribution stays exactly uniform"):
//   candidate_group_size = 1:  draw(M, n - 1) over the other rows (values >= the row's own index move up by one).
//   otherwise:          the group shares draw(M + 1, n); a row drops itself if it is there, else the last one.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/random_stream.h"

namespace bse {

// What a draw over the rows other than `row` means.
BSE_HOST_DEVICE inline uint32_t other_row(uint32_t drawn, uint32_t row) { return drawn + (drawn >= row ? 1 : 0); }

BSE_HOST_DEVICE inline bool draw_is_sparse(uint32_t num_drawn, uint32_t n) { return uint64_t{2} * num_drawn <= n; }

// Words: as WordStream. Set: insert(value) -> true if it was new. out: [num_drawn].
template <class Words, class Set>
BSE_HOST_DEVICE inline void draw_sparse(Words& words, uint32_t num_drawn, uint32_t n, Set& seen, uint32_t* out) {
  for (uint32_t count = 0; count < num_drawn;) {
    const uint32_t value = words.next_below(n);
    if (seen.insert(value)) out[count++] = value;
  }
}

// values: [n], 0 to n - 1 in order; its first num_drawn entries are the draw afterwards.
template <class Words>
BSE_HOST_DEVICE inline void shuffle_front(Words& words, uint32_t num_drawn, uint32_t n, uint32_t* values) {
  for (uint32_t i = 0; i < num_drawn; ++i) {
    const uint32_t j = i + words.next_below(n - i);
    const uint32_t drawn = values[j];
    values[j] = values[i];
    values[i] = drawn;
  }
}

// values: [n] scratch; its first num_drawn entries are the draw afterwards.
template <class Words>
BSE_HOST_DEVICE inline void draw_dense(Words& words, uint32_t num_drawn, uint32_t n, uint32_t* values) {
  for (uint32_t i = 0; i < n; ++i) values[i] = i;
  shuffle_front(words, num_drawn, n, values);
}

}  // namespace bse

// Huge pages for large arrays. They save page faults at the first write and TLB misses in random reads.
#pragma once

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/requests.h"

namespace bse {

// Asks for huge pages if the system leaves the choice to programs (Linux, transparent_hugepage = madvise). This is only
// a hint: the system may refuse it without harm, and memory already in use keeps its pages.
inline void prefer_huge_pages(void* data, int64_t num_bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(num_bytes)) & ~(kHugePage - 1);
  if (data != nullptr && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)num_bytes;
#endif
}

// Of a result of num_rows rows.
inline void prefer_huge_pages(const Edges& edges, int64_t num_rows, int64_t num_neighbors) {
  prefer_huge_pages(edges.neighbors, 4 * num_rows * num_neighbors);
  prefer_huge_pages(edges.scores, 4 * num_rows * num_neighbors);
}

}  // namespace bse

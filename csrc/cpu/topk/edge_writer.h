// Turns the best scores of a row into a row of the result.
#pragma once

#include <cstdint>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/topk/results.h"
#include "cpu/topk/top_k_buffer.h"

namespace bse {

class LinkWriter {
 public:
  // max_links: most entries of a buffer to be written
  LinkWriter(const Selection& selection, const Links& links, int64_t max_links);

  // Writes a finished buffer as row `result_row`.      tiebreak_ids: ids by tiebreak
  void write(const TopKBuffer& buffer, const int64_t* tiebreak_ids, int64_t result_row);

 private:
  const Selection selection_;
  const Links links_;
  const KernelTable& kernels_;
  void sort(int64_t num_links);

  AlignedBuffer<uint64_t> ranks_, sorted_;  // [max_links]
  AlignedBuffer<uint32_t> places_;          // [max_links]
};

}  // namespace bse

// Writes the best candidates of a row as a row of the result, with their scores if these are wanted. Their order is
// that of tiebreaks, or (score descending, id) if Selection::sort.
#pragma once

#include <cstdint>

#include "cpu/runtime/aligned_buffer.h"
#include "cpu/topk/top_k_buffer.h"
#include "cpu/types/requests.h"

namespace bse {

class EdgeWriter {
 public:
  // max_edges: upper bound on the size of a buffer to write
  EdgeWriter(const Selection& selection, const Edges& edges, int64_t max_edges);

  // Writes a finished buffer as row `result_row`. tiebreak_ids: instance id of each tiebreak
  void write(const TopKBuffer& buffer, const int64_t* tiebreak_ids, int64_t result_row);

 private:
  const Selection selection_;
  const Edges edges_;
  const KernelTable& kernels_;
  void sort(int64_t num_edges);

  AlignedBuffer<uint64_t> ranks_, sorted_;  // [max_edges]
  AlignedBuffer<uint32_t> places_;          // [max_edges]
};

}  // namespace bse

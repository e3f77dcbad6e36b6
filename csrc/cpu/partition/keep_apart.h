// Swaps instances between batches until no batch holds an id too often.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/runtime/thread_team.h"

namespace bse {

struct KeepApartRequest {
  int32_t* members = nullptr;  // [num_members] distinct instances, batch after batch; replaced by the result
  int64_t num_members = 0;
  const int64_t* starts = nullptr;  // [num_batches + 1] first position of each batch
  int64_t num_batches = 0;
  const int32_t* codes = nullptr;  // [num_members, num_columns] ids of the members as given, below num_codes; -1: none
  int64_t num_columns = 0, num_codes = 0;
  int64_t max_per_batch = 1;
  const int64_t* partner_offsets = nullptr;  // [num_instances + 1] into partners, instances that should not meet
  const int32_t* partners = nullptr;
  const int32_t* neighbors = nullptr;  // [num_instances, num_neighbors], rows end with -1
  int64_t num_neighbors = 0, num_instances = 0;
  uint64_t key = 0;  // of the hashes
};

struct KeepApartResult {
  int64_t excess;   // sum over batches and ids of max(0, members with the id - max_per_batch)
  int64_t num_met;  // pairs of partners in one batch
};

// Runs on the calling thread. Throws Interrupted if the Monitor stops the call.
KeepApartResult keep_apart(const KeepApartRequest& request, Monitor& monitor);

}  // namespace bse

// Entry point of the CUDA engine for partition epochs (csrc/common/partition_schedule.h): the partition of
// csrc/cpu/partition/partition.cpp, bit for bit.
//
// All pointers are to memory of the current device and borrowed. Work is queued on `stream` (a cudaStream_t); nothing
// here allocates. How many rounds a partition takes depends on its data, so this is where the CUDA engine waits for the
// stream: through the caller's CounterReader, once every few vote rounds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"

namespace bse::cuda {

// Brings a few counters to the host, after what was queued on the partition's stream before.
class CounterReader {
 public:
  virtual ~CounterReader() = default;
  // host, device: [count]
  virtual void read(int64_t* host, const int64_t* device, int64_t count) = 0;
};

// Walks that tell how linked batches are to be; 0 where nothing depends on it.
int64_t num_reference_walks(const PartitionRequest& request);

size_t partition_scratch_bytes(const PartitionRequest& request);

// Every row in exactly one batch. nodes: [R], or [R - R mod batch_size] with drop_last: the full batches one after the
// other, then the ragged one, the rows of each ascending. scratch: partition_scratch_bytes(request), aligned to 256.
// status (status.h): a neighbor that is no row is reported if it is met, and has no vote; the result is a partition
// even then. Returns the number of rows that were filled in at random.
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, void* scratch, uint64_t* status, void* stream,
                        CounterReader& reader);

}  // namespace bse::cuda

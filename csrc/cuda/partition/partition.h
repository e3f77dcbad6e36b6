// Entry point of the CUDA engine for partition epochs (csrc/common/partition_schedule.h). The result is identical to
// that of csrc/cpu/partition/partition.cpp.
//
// All pointers are borrowed and point to memory of the current device. Work is queued on `stream` (a cudaStream_t).
// Nothing here allocates. The number of rounds depends on the data, so the host must wait for the stream, about once
// every few vote rounds. It does so through the caller's CounterReader.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/types/requests.h"

namespace bse::cuda {

// Copies counters to the host, after all work queued on the partition's stream so far.
class CounterReader {
 public:
  virtual ~CounterReader() = default;
  // host, device: [count]
  virtual void read(int64_t* host, const int64_t* device, int64_t count) = 0;
};

// Number of walks whose edge share sets the goal of the partition; 0 if the partition needs no goal.
int64_t num_reference_walks(const PartitionRequest& request);

size_t partition_scratch_bytes(const PartitionRequest& request);

// Puts every row in exactly one batch, except rows left out by drop_last. Returns the number of random fills. If a
// neighbor that is no row is met, it is reported (status.h) and has no vote; the result is a partition even then.
// nodes: [R], or [R - R mod batch_size] with drop_last. Full batches come first, then the ragged one. The rows of a
// batch ascend.
// scratch: partition_scratch_bytes(request) bytes, aligned to 256
int64_t partition_epoch(const PartitionRequest& request, int32_t* nodes, void* scratch, uint64_t* status, void* stream,
                        CounterReader& reader);

}  // namespace bse::cuda

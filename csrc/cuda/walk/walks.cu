#include <algorithm>

#include "cuda/runtime/grid_size.h"
#include "cuda/walk/root_kernels.cuh"
#include "cuda/walk/row_degrees_kernel.cuh"
#include "cuda/walk/walk_kernel.cuh"
#include "cuda/walk/walks.h"

namespace bse::cuda {

namespace {

// Larger member tables are in global memory: in shared memory, they would leave a multiprocessor too few warps.
constexpr size_t kMaxSharedTableBytes = 32 << 10;
constexpr int64_t kWarpsWithGlobalTable = 16;  // warps per multiprocessor if tables are in global memory
constexpr unsigned kThreadsPerBlock = 256;     // block size of the kernels for roots and degrees
constexpr int64_t kBlocksPerMultiprocessor = 16;
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

struct WalkPlan {
  bool has_shared_tables;
  int log_slots;
  unsigned num_blocks;
  size_t shared_bytes, scratch_bytes;
};

// Number of rows of a batch.
int64_t num_collected(const WalkRequest& request) { return std::min(request.batch_size, request.graph.num_rows); }

WalkPlan plan(const WalkRequest& request) {
  WalkPlan plan{};
  plan.log_slots = member_table_log_slots(num_collected(request));
  const size_t table_bytes = sizeof(uint32_t) << plan.log_slots;
  plan.has_shared_tables = table_bytes <= kMaxSharedTableBytes;
  plan.shared_bytes = device::shared_bytes<uint32_t>(kWalkWarps * kStepsAhead * 32);
  int64_t num_blocks = std::min((request.num_walks + kWalkWarps - 1) / kWalkWarps, kMaxBlocks);
  if (plan.has_shared_tables) {
    // One block per kWalkWarps walks, so that the hardware balances the load.
    plan.shared_bytes += device::shared_bytes<uint32_t>(kWalkWarps << plan.log_slots);
  } else {
    num_blocks = std::min(num_blocks, device::num_multiprocessors() * kWarpsWithGlobalTable / kWalkWarps);
    plan.scratch_bytes = static_cast<size_t>(num_blocks) * kWalkWarps * table_bytes;
  }
  plan.num_blocks = static_cast<unsigned>(num_blocks);
  return plan;
}

int floor_log2(uint32_t value) {
  int result = 0;
  while (value >>= 1) ++result;
  return result;
}

device::Stream as_stream(void* stream) { return static_cast<device::Stream>(stream); }

}  // namespace

void clear_status(uint64_t* status, void* stream) {
  device::fill_async(status, 0xFF, kNumStatusWords * sizeof(uint64_t), as_stream(stream));
}

void launch_row_degrees(const GraphView& graph, int32_t* degrees, uint64_t* status, void* stream) {
  device::launch(row_degrees_kernel, grid_size(graph.num_rows, kThreadsPerBlock / 32, kBlocksPerMultiprocessor),
                 kThreadsPerBlock, 0, as_stream(stream), graph, degrees, status);
}

size_t walk_scratch_bytes(const WalkRequest& request) { return plan(request).scratch_bytes; }

void launch_walks(const WalkRequest& request, const WalkResult& result, void* scratch, uint64_t* status, void* stream) {
  if (request.num_walks == 0) return;
  const WalkPlan plan = cuda::plan(request);
  WalkSetting setting{};
  setting.request = request;
  setting.result = result;
  setting.limits = walk_limits(static_cast<uint32_t>(request.batch_size), request.restart_threshold);
  if (request.strategy == Strategy::kUniform) setting.limits.max_segments = 0;
  setting.target = static_cast<uint32_t>(num_collected(request));
  const uint32_t mean_steps = request.restart_threshold == 0 ? 0xFFFFFFFFu : 0xFFFFFFFFu / request.restart_threshold;
  setting.log_segment_steps = floor_log2(std::min(mean_steps, setting.limits.max_segment_steps));
  setting.log_slots = plan.log_slots;
  setting.member_tables = static_cast<uint32_t*>(scratch);
  setting.status = status;
  const auto kernel = plan.has_shared_tables ? walk_kernel<true> : walk_kernel<false>;
  device::launch(kernel, plan.num_blocks, 32 * kWalkWarps, plan.shared_bytes, as_stream(stream), setting);
}

void launch_independent_roots(int64_t num_rows, int64_t num_walks, uint64_t seed, uint32_t epoch, int64_t* roots,
                              void* stream) {
  if (num_walks == 0) return;
  device::launch(independent_roots_kernel, grid_size(num_walks, kThreadsPerBlock, kBlocksPerMultiprocessor),
                 kThreadsPerBlock, 0, as_stream(stream), static_cast<uint32_t>(num_rows), num_walks, seed, epoch,
                 roots);
}

void launch_root_order(int64_t num_rows, uint64_t seed, uint32_t epoch, int64_t* order, void* stream) {
  device::launch(root_order_kernel, grid_size(num_rows, kThreadsPerBlock, kBlocksPerMultiprocessor), kThreadsPerBlock,
                 0, as_stream(stream), static_cast<uint32_t>(num_rows), seed, epoch, order);
}

}  // namespace bse::cuda

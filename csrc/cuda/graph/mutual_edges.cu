#include "cuda/graph/mutual_edges.h"
#include "cuda/graph/mutual_edges_kernel.cuh"
#include "cuda/runtime/grid_size.h"

namespace bse::cuda {

namespace {

constexpr unsigned kThreadsPerBlock = 256;
constexpr int64_t kBlocksPerMultiprocessor = 16;

}  // namespace

void launch_mutual_edges(const MutualEdgesRequest& request, const Edges& edges, int32_t* degrees, uint64_t* status,
                         void* stream) {
  device::launch(mutual_edges_kernel,
                 grid_size(request.graph.num_rows, kThreadsPerBlock / 32, kBlocksPerMultiprocessor), kThreadsPerBlock,
                 0, static_cast<device::Stream>(stream), request, edges, degrees, status);
}

}  // namespace bse::cuda

// Batches by the strategies that walks are compared with (csrc/common/strategy.h), a warp a batch. They are for
// measuring, not for speed: 32 neighbours of one row are looked at together, rows come one after the other.
//
// Members are those of csrc/cpu/walk/batch_walks.cpp, in its order: depth first, a row's first neighbour that is no
// member yet is visited, and the row is returned to when that has none left, which is the preorder that a stack of all
// neighbours gives. O(B K / 32) rounds breadth first; as many depth first if few neighbours are members, else up to B
// times that.
#pragma once

#include <cstdint>

#include "common/permutation.h"
#include "common/strategy.h"
#include "cuda/primitives/graph_view.cuh"
#include "cuda/walk/walks.h"
#include "cuda/walk/warp_batch.cuh"

namespace bse::cuda {

constexpr int kCollectWarps = 2;  // of a block

struct CollectSetting {
  WalkRequest request;
  WalkResult result;
  uint32_t target;          // rows of a batch
  int log_slots;            // of a member table
  uint32_t* member_tables;  // [number of warps, 2^log_slots]
  uint32_t* paths;          // [number of warps, 2, target]: depth first, the rows on the way, and how far each has come
  uint64_t* status;         // [kNumStatusWords]
};

class WarpCollector {
 public:
  BSE_DEVICE WarpCollector(const CollectSetting& setting, int64_t warp_of_grid)
      : setting_(setting),
        graph_(setting.request.graph),
        lane_(threadIdx.x % 32),
        path_(setting.paths + warp_of_grid * 2 * setting.target),
        batch_(setting.member_tables + (warp_of_grid << setting.log_slots), setting.log_slots, setting.target) {}

  BSE_DEVICE void run(int64_t index) {
    const WalkRequest& request = setting_.request;
    nodes_ = setting_.result.nodes + index * request.batch_size;
    const int64_t root = request.roots[index];
    const bool has_root = root >= 0 && root < graph_.num_rows;
    uint32_t num_filled = 0;
    if (has_root) {
      batch_.begin(nodes_);
      batch_.add(lane_ == 0, static_cast<uint32_t>(root));
      if (request.strategy == Strategy::kDepthFirst) {
        depth_first(static_cast<uint32_t>(root));
      } else if (request.strategy != Strategy::kUniform) {
        breadth_first(request.strategy == Strategy::kNeighbors ? 1 : setting_.target);
      }
      const auto walk =
          static_cast<uint32_t>(request.walk_ids != nullptr ? request.walk_ids[index] : request.first_walk + index);
      num_filled = batch_.fill(static_cast<uint32_t>(graph_.num_rows), request.seed, request.epoch, walk);
    } else if (lane_ == 0) {
      report(setting_.status, StatusKind::kRootNotARow, static_cast<uint32_t>(index), static_cast<uint32_t>(root));
    }
    for (int64_t i = (has_root ? setting_.target : 0) + lane_; i < request.batch_size; i += 32) nodes_[i] = -1;
    if (lane_ != 0) return;
    setting_.result.steps[index] = setting_.result.restarts[index] = setting_.result.teleports[index] = 0;
    setting_.result.fills[index] = num_filled;
  }

 private:
  // This lane's neighbour of the row, of the 32 from `first` on; false if there is none.
  BSE_DEVICE bool neighbor(uint32_t row, uint32_t first, uint32_t* found) const {
    if (first + lane_ >= degree_of(graph_, row)) return false;
    const Neighbor neighbor = neighbor_of(graph_, row, first + lane_);
    if (!neighbor.is_row) {
      report(setting_.status, StatusKind::kNeighborNotARow, row, static_cast<uint32_t>(neighbor.id));
    }
    *found = neighbor.row;
    return neighbor.is_row;
  }

  // The neighbours of the first max_rows members.
  BSE_DEVICE void breadth_first(uint32_t max_rows) {
    for (uint32_t next = 0; next < batch_.size() && next < max_rows && !batch_.full(); ++next) {
      __syncwarp();  // members that other lanes have written
      const auto row = static_cast<uint32_t>(nodes_[next]);
      for (uint32_t first = 0; first < degree_of(graph_, row) && !batch_.full(); first += 32) {
        uint32_t found = 0;
        const bool is_found = neighbor(row, first, &found);
        batch_.add(is_found, found);
      }
    }
  }

  BSE_DEVICE void depth_first(uint32_t root) {
    uint32_t* const rows = path_;
    uint32_t* const places = path_ + setting_.target;  // of the neighbour that is next
    uint32_t depth = 0, row = root, place = 0;
    while (!batch_.full()) {
      if (place >= degree_of(graph_, row)) {  // back to where it came from
        if (depth == 0) return;
        --depth;
        __syncwarp();  // lane 0 has written it
        row = rows[depth];
        place = places[depth];
        continue;
      }
      __syncwarp();  // members that other lanes have inserted
      uint32_t found = 0;
      const bool is_new = neighbor(row, place, &found) && !batch_.holds(found);
      const unsigned news = __ballot_sync(kAllLanes, is_new);
      __syncwarp();  // all have read what may change now
      if (news == 0) {
        place += 32;
        continue;
      }
      const int first = __ffs(static_cast<int>(news)) - 1;
      if (lane_ == 0) {
        rows[depth] = row;
        places[depth] = place + first + 1;
      }
      ++depth;
      row = __shfl_sync(kAllLanes, found, first);
      place = 0;
      batch_.add(lane_ == 0, row);
    }
  }

  const CollectSetting& setting_;
  const GraphView& graph_;
  const uint32_t lane_;
  uint32_t* const path_;
  int32_t* nodes_ = nullptr;
  WarpBatch batch_;
};

__global__ void __launch_bounds__(32 * kCollectWarps, 1) collect_kernel(const CollectSetting setting) {
  const int64_t warp_of_grid = int64_t{blockIdx.x} * kCollectWarps + threadIdx.x / 32;
  WarpCollector collector(setting, warp_of_grid);
  const int64_t num_warps = int64_t{gridDim.x} * kCollectWarps;
  for (int64_t i = warp_of_grid; i < setting.request.num_walks; i += num_warps) collector.run(i);
}

}  // namespace bse::cuda

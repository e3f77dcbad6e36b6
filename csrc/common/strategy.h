// Ways to collect a batch from its root, as compared in the paper (Yang et al., KDD 2023, section 5.4).
#pragma once

namespace bse {

enum class Strategy : int {
  kWalk = 0,          // random walk with restart; without restart if the threshold is 0 (walk.h)
  kBreadthFirst = 1,  // neighbors in row order
  kDepthFirst = 2,    // preorder, neighbors in row order
  kNeighbors = 3,     // the root and its first neighbors
  kUniform = 4,       // the root alone; random fills complete the batch, as for every strategy
};
constexpr Strategy kLastStrategy = Strategy::kUniform;

}  // namespace bse

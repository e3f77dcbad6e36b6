// How a batch is collected from its root: the paper's comparisons (Yang et al., KDD 2023, section 5.4).
#pragma once

namespace bse {

enum class Strategy : int {
  kWalk = 0,          // RWR, and RW with threshold 0: walk.h
  kBreadthFirst = 1,  // neighbors in row order
  kDepthFirst = 2,    // preorder, neighbors in row order
  kNeighbors = 3,     // the root and its first neighbors
  kUniform = 4,       // the root alone; as with all of them, the batch is then filled from a keyed permutation
};

}  // namespace bse

// The graph that kernels walk. Device functions that read it are in cuda/primitives/graph_view.cuh.
#pragma once

#include "common/layouts.h"

namespace bse::cuda {

using GraphView = GraphLayout;

}  // namespace bse::cuda

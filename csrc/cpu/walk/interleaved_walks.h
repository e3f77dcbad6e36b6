// Canonical walks (csrc/common/walk.h), many at a time on each thread.
//
// A step of a walk is a random access to memory that the next step waits for. So a thread keeps some tens of walks in
// flight: each advances to its next access, prefetches it and yields to the others. Which walk runs where and when has
// no influence on what it returns.
#pragma once

#include "cpu/walk/batch_walks.h"

namespace bse {

void interleaved_walks(const WalkRequest& request, const WalkResult& result, Monitor& monitor);

}  // namespace bse

// Random walks with restart (csrc/common/walk.h), many at a time on each thread.
//
// Each step of a walk is a random access to memory, and the next step waits for it. So a thread keeps up to 32 walks in
// flight. Each walk advances to its next access, prefetches it and yields to the others. The result of a walk does not
// depend on where and when it runs.
#pragma once

#include "cpu/walk/batch_walks.h"

namespace bse {

void interleaved_walks(const WalkRequest& request, const WalkResult& result, Monitor& monitor);

}  // namespace bse

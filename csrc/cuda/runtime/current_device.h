// Which device the calling thread's launches go to.
//
// This module's copy of the CUDA runtime is its own (linked statically) and does not see what torch's copy was told:
// the two share the driver's current context only, and when a runtime binds that, early or at its next call, has
// changed between versions. So a caller says it to both.
#pragma once

namespace bse::cuda {

void use_device(int index);

}  // namespace bse::cuda

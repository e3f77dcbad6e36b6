// Selects the device of the calling thread's launches.
//
// This module links its own copy of the CUDA runtime statically, and that copy does not see which device torch's copy
// was given. The two share only the driver's current context, and CUDA versions differ in when a runtime binds it.
// So callers select the device in both.
#pragma once

namespace bse::cuda {

void use_device(int index);

}  // namespace bse::cuda

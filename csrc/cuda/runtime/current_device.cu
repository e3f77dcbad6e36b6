#include "cuda/runtime/current_device.h"
#include "cuda/runtime/device.h"

namespace bse::cuda {

void use_device(int index) { device::use_device(index); }

}  // namespace bse::cuda

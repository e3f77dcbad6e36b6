#include "current_device.h"
#include "device.h"

namespace bse::cuda {

void use_device(int index) { device::use_device(index); }

}  // namespace bse::cuda

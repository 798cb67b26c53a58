// The twin of csrc/kernels/cuda/atomics.cuh. One thread runs at a time and sees all that was written.
#pragma once

#include "device_builtins.h"

namespace ddit::kernels::cuda {

inline unsigned add_acquire_release(unsigned* counter, unsigned value) { return atomicAdd(counter, value); }

}  // namespace ddit::kernels::cuda

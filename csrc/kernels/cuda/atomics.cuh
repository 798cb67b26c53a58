// What blocks of one launch tell each other through global memory. cpp_tests/emulation has a twin of this
// header.
#pragma once

#include <cuda_runtime.h>

namespace ddit::kernels::cuda {

// atomicAdd that also publishes: what this thread has seen written before (its own stores, and those of its
// block before the last __syncthreads) is seen by whoever finds a later value here, and by that thread's
// block after its next
// __syncthreads. One instruction, so that no fence can be forgotten beside it.
__device__ __forceinline__ unsigned add_acquire_release(unsigned* counter, unsigned value) {
  unsigned before;
  asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}

}  // namespace ddit::kernels::cuda

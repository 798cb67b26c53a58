// Where a kernel finds its shared memory. Kernels use these instead of extern __shared__, which only nvcc can
// read: cpp_tests/emulation has a twin of this header for g++.
#pragma once

namespace ddit::kernels::cuda {

// The memory that `dynamic_shared_bytes` of launch() asks for, aligned to 128 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char ddit_dynamic_shared[];
  return reinterpret_cast<T*>(ddit_dynamic_shared);
}

// One T of the block, uninitialised; the same one wherever it is asked for. T is an aggregate made for this.
template <class T>
__device__ __forceinline__ T& block_shared() {
  __shared__ T memory;
  return memory;
}

// A pointer to global memory that was kept in shared memory, where the compiler can't tell what it points to:
// accesses of any memory take longer.
template <class T>
__device__ __forceinline__ T* global_pointer(T* pointer) {
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

}  // namespace ddit::kernels::cuda

// How a kernel is launched: instead of <<<>>>, which only nvcc can read. The emulation compiles this very
// file, with a CUDA runtime of its own (cpp_tests/emulation/include/cuda_runtime.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace ddit::kernels::cuda {

// A kernel's status is the cudaError_t as an int, so that callers need no CUDA header.
constexpr int kSuccess = 0;
constexpr int kInvalidConfiguration = static_cast<int>(cudaErrorInvalidConfiguration);

// The status is handed to the caller; left behind, it would be taken for the error of whatever comes next.
inline int returned(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  return static_cast<int>(status);
}

// Lets a kernel's launches ask for up to `bytes` of dynamic shared memory; beyond 48 KB they have to. The
// limit is the kernel's, not a launch's: always the most that it can need, or a thread with a small launch
// would lower it before another's large one.
template <class... Parameters>
int allow_dynamic_shared(void (*kernel)(Parameters...), size_t bytes) {
  return returned(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, void* stream,
           const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  return returned(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// Multiprocessors of the current device; 1 where it can't be asked, and the launch will say why.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  cudaGetLastError();
  return count > 0 ? count : 1;
}

// Zeroes device memory in the order of the stream.
inline int zero_async(void* memory, size_t bytes, void* stream) {
  return returned(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}

}  // namespace ddit::kernels::cuda

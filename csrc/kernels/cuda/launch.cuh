// How a kernel is launched: instead of <<<>>>, which only nvcc can read. The emulation compiles this very
// file, with a CUDA runtime of its own (cpp_tests/emulation/include/cuda_runtime.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace ddit::kernels::cuda {

// A kernel's status is the cudaError_t as an int, so that callers need no CUDA header.
constexpr int kSuccess = 0;
constexpr int kInvalidConfiguration = static_cast<int>(cudaErrorInvalidConfiguration);

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, void* stream,
           const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  cudaError_t status = cudaSuccess;
  if (dynamic_shared_bytes > kWithoutAsking) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(dynamic_shared_bytes));
  }
  if (status == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = dynamic_shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    status = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  // The status is handed to the caller; left behind, it would be taken for the error of whatever comes next.
  if (status != cudaSuccess) cudaGetLastError();
  return static_cast<int>(status);
}

// Of the current device; 1 where it can't be asked, and the launch will say why.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  cudaGetLastError();
  return count > 0 ? count : 1;
}

// Zeroes device memory in the order of the stream.
inline int zero_async(void* memory, size_t bytes, void* stream) {
  const cudaError_t status = cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream));
  if (status != cudaSuccess) cudaGetLastError();
  return static_cast<int>(status);
}

}  // namespace ddit::kernels::cuda

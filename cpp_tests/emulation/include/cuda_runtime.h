// As CUDA's own: the runtime's functions that are templates over a kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "device_builtins.h"

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace ddit_emulation {

// The most that a block can ask for, on sm_90 and sm_100. sm_80 ends at 163 KB.
constexpr int kMostDynamicShared = 227 * 1024;

// The limit of a kernel's launches, on every device.
cudaError_t set_most_dynamic_shared(const void* kernel, int bytes);
size_t most_dynamic_shared(const void* kernel);

// What the runtime returns, and remembers as the last error: DDIT_EMULATION_ERROR where it befalls kernels,
// else cudaErrorInvalidValue where not `valid`.
cudaError_t kernel_status(bool valid);

// Where DDIT_EMULATION_LAUNCHES names a file: adds a line to it, "offset of the kernel in its library,
// blocks, threads, bytes of dynamic shared memory", and true: the kernel is not to run.
bool recorded(const void* kernel, const cudaLaunchConfig_t& config);

}  // namespace ddit_emulation

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute /*dynamic shared memory*/,
                                 int bytes) {
  return ddit_emulation::set_most_dynamic_shared(reinterpret_cast<const void*>(kernel), bytes);
}

// Runs the whole grid before it returns.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const size_t most = ddit_emulation::most_dynamic_shared(reinterpret_cast<const void*>(kernel));
  if (const cudaError_t status = ddit_emulation::kernel_status(config->dynamicSmemBytes <= most))
    return status;
  if (ddit_emulation::recorded(reinterpret_cast<const void*>(kernel), *config)) return cudaSuccess;
  ddit_emulation::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                           [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}

// acceleration_quantiles on a GPU, for callers without any CUDA header.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/acceleration_quantiles/params.h"

namespace ddit::kernels::acceleration_quantiles {

// Which size is beyond the kernel's 32-bit counters, or "" if none is.
std::string cuda_size_error(const Params& params);

// Device memory that a call needs, aligned to 16 bytes; its contents don't matter before or after.
int64_t cuda_workspace_bytes(const Params& params);

// Arguments as for acceleration_quantiles_cpu, without float64; all pointers but `scales` are device
// pointers. `stream` is a cudaStream_t. One kernel launch for up to kMostLevels scales (cuda_plan.h); nothing
// waits for the device. Returns a cudaError_t, 0 for success.
int acceleration_quantiles_cuda(const Params& params, void* workspace, void* stream);

}  // namespace ddit::kernels::acceleration_quantiles

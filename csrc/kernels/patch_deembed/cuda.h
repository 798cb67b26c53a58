// The scattering half of patch_deembed on a GPU.
#pragma once

#include "kernels/patch_deembed/params.h"

namespace ddit::kernels::patch_deembed {

// A cudaError_t. Elements of 2 or 4 bytes, patches aligned to 16, every size at most kMostOnGpu.
int scatter_cuda(const Params& params, void* stream);

}  // namespace ddit::kernels::patch_deembed

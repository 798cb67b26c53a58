// The gathering half of patch_embed on a GPU.
#pragma once

#include "kernels/patch_embed/params.h"

namespace ddit::kernels::patch_embed {

// A cudaError_t. Elements of 2 or 4 bytes, patches aligned to 16, every size at most kMostOnGpu, so also how
// many factors there are.
int gather_cuda(const Params& params, void* stream);

}  // namespace ddit::kernels::patch_embed

// The ops that have a CUDA kernel. Registered for CUDA in registration.cpp, and for the CPU by the emulation.
#pragma once

#include <torch/csrc/stable/library.h>

#include "ops/ops.h"

namespace ddit::ops {

inline void implement_with_cuda_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("patch_embed", TORCH_BOX(&patch_embed_cuda));
  m.impl("patch_deembed", TORCH_BOX(&patch_deembed_cuda));
  m.impl("acceleration_quantiles", TORCH_BOX(&acceleration_quantiles_cuda));
}

}  // namespace ddit::ops

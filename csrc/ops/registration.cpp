// Which function serves which device. Fake kernels, autograd and autocast are registered from Python, in
// ddit_ext/ops.
#include <torch/csrc/stable/library.h>

#include "ops/cuda_ops.h"
#include "ops/ops.h"
#include "ops/schemas.h"

STABLE_TORCH_LIBRARY(ddit_ext, m) { ddit::ops::define_schemas(m); }

STABLE_TORCH_LIBRARY_IMPL(ddit_ext, CPU, m) {
  m.impl("patch_embed", TORCH_BOX(&ddit::ops::patch_embed_cpu));
  m.impl("patch_deembed", TORCH_BOX(&ddit::ops::patch_deembed_cpu));
  m.impl("acceleration_quantiles", TORCH_BOX(&ddit::ops::acceleration_quantiles_cpu));
}

#ifdef DDIT_EXT_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(ddit_ext, CUDA, m) { ddit::ops::implement_with_cuda_kernels(m); }
#endif

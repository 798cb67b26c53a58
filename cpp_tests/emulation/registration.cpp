// torch.ops.ddit_ext_emu: the schemas of ddit_ext, served on the CPU by the CUDA kernels.
#include <torch/csrc/stable/library.h>

#include "ops/cuda_ops.h"
#include "ops/schemas.h"

STABLE_TORCH_LIBRARY(ddit_ext_emu, m) { ddit::ops::define_schemas(m); }

STABLE_TORCH_LIBRARY_IMPL(ddit_ext_emu, CPU, m) { ddit::ops::implement_with_cuda_kernels(m); }

// What patch_embed and patch_deembed have in common on a GPU: patches are gathered and scattered by the
// project's own kernels, and multiplied by torch's library.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "kernels/patch_grid.h"
#include "ops/cuda_call.h"

namespace ddit::ops {

using torch::stable::Tensor;

// The dtype and the sizes that the kernels can do.
void check_patches_cuda(const char* op, const Tensor& like, const kernels::PatchGrid& grid, int64_t width);

// x [M, K], its columns together in memory; weight_t = weight^T [K, N], bias [N], lora_a [r, K], lora_b [N,
// r]; one dtype, already checked -> x (weight + lora_scale lora_b lora_a)^T + bias, [M, N], contiguous
Tensor linear_cuda(const CudaCall& call, const Tensor& x, const Tensor& weight_t,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                   const std::optional<Tensor>& lora_b, double lora_scale);

}  // namespace ddit::ops

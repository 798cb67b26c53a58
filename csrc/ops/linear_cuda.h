// The product behind patch_embed and patch_deembed on a GPU.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "kernels/patch_linear/params.h"

namespace ddit::ops {

using torch::stable::Tensor;

// out = in (weight + lora_scale lora_b lora_a)^T + bias, in one launch on the stream of `like`'s device.
// `in` [M, K] and `out` [M, N] lie on that device; weight [N, ...], bias [...] of N, lora_a [r, ...] and
// lora_b
// [..., r] with any strides and the features flattened row-major; all of one dtype, already checked.
void linear_cuda(const char* op, const Tensor& like, const kernels::patch_linear::PatchMatrix& in,
                 const kernels::patch_linear::PatchMatrix& out, const Tensor& weight,
                 const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                 const std::optional<Tensor>& lora_b, double lora_scale);

}  // namespace ddit::ops

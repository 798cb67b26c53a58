// The product behind patch_embed and patch_deembed.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace ddit::ops {

using torch::stable::Tensor;

// x [M, K], weight_t = weight^T [K, N] (columns together in memory, as a rule), bias [N], lora_a [r, K],
// lora_b [N, r]; CPU, one dtype, already checked.
// -> x (weight + lora_scale lora_b lora_a)^T + bias, [M, N], contiguous
Tensor linear_cpu(const Tensor& x, const Tensor& weight_t, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                  double lora_scale);

}  // namespace ddit::ops

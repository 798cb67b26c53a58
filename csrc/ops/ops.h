// The implementations that are registered; shapes stand with the schemas, in schemas.h.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace ddit::ops {

using torch::stable::Tensor;

Tensor patch_embed_cpu(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                       double lora_scale, int64_t scale, const std::optional<Tensor>& input_scale);

Tensor patch_deembed_cpu(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                         double lora_scale, int64_t scale, const std::vector<int64_t>& grid);

Tensor acceleration_quantiles_cpu(const Tensor& z0, const Tensor& z1, const Tensor& z2, const Tensor& z3,
                                  const std::vector<int64_t>& scales, double quantile);

// The same for CUDA tensors.
Tensor patch_embed_cuda(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                        double lora_scale, int64_t scale, const std::optional<Tensor>& input_scale);

Tensor patch_deembed_cuda(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                          double lora_scale, int64_t scale, const std::vector<int64_t>& grid);

Tensor acceleration_quantiles_cuda(const Tensor& z0, const Tensor& z1, const Tensor& z2, const Tensor& z3,
                                   const std::vector<int64_t>& scales, double quantile);

}  // namespace ddit::ops

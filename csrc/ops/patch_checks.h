// The argument checks of patch_embed and patch_deembed, the same on every device. They throw, naming the
// argument.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "kernels/patch_grid.h"

namespace ddit::ops {

using torch::stable::Tensor;

kernels::PatchGrid check_patch_embed(const Tensor& cells, const Tensor& weight,
                                     const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                                     const std::optional<Tensor>& lora_b, int64_t scale,
                                     const std::optional<Tensor>& input_scale);

kernels::PatchGrid check_patch_deembed(const Tensor& tokens, const Tensor& weight,
                                       const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                                       const std::optional<Tensor>& lora_b, int64_t scale,
                                       const std::vector<int64_t>& grid_sizes);

}  // namespace ddit::ops

#include "kernels/patch_deembed/params.h"
#include "ops/linear.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// patches [grid.patches(), grid.features()] -> cells [B, F, h, w, C, p, p]
Tensor scatter(const Tensor& patches, const kernels::PatchGrid& grid) {
  const std::array<int64_t, 7> shape{grid.batch,    grid.frames, grid.rows, grid.cols,
                                     grid.channels, grid.p,      grid.p};
  if (grid.scale == 1) return reshape(patches, shape);
  Tensor cells = empty(patches, shape);
  const kernels::patch_deembed::Params params{patches.const_data_ptr(), cells.mutable_data_ptr(),
                                              static_cast<int64_t>(cells.element_size()), grid};
  torch::stable::parallel_for(0, grid.patches(), patches_per_thread(grid), [&](int64_t first, int64_t last) {
    kernels::patch_deembed::scatter_cpu(params, first, last);
  });
  return cells;
}

}  // namespace

Tensor patch_deembed_cpu(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                         double lora_scale, int64_t scale, const std::vector<int64_t>& grid_sizes) {
  const kernels::PatchGrid grid =
      check_patch_deembed(tokens, weight, bias, lora_a, lora_b, scale, grid_sizes);
  const int64_t D = tokens.size(2), K = grid.features();
  const auto flat_bias = bias ? std::optional(reshape<1>(*bias, {K})) : std::nullopt;
  const auto flat_b = lora_b ? std::optional(reshape<2>(*lora_b, {K, lora_b->size(3)})) : std::nullopt;
  const Tensor patches = linear_cpu(reshape<2>(tokens, {grid.patches(), D}), reshape_transposed(weight, K, D),
                                    flat_bias, lora_a, flat_b, lora_scale);
  return scatter(patches, grid);
}

}  // namespace ddit::ops

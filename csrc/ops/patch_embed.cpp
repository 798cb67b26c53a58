#include "ops/linear.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/patch_embed_params.h"

namespace ddit::ops {
namespace {

// [patches, features], of the weight's dtype
Tensor patches_of(const Tensor& cells, const kernels::PatchGrid& grid, const InputScale& scale,
                  const Tensor& weight) {
  const std::array<int64_t, 2> shape = {grid.patches(), grid.features()};
  if (holds_patches(cells, grid, scale)) return reshape<2>(cells, shape);
  Tensor patches = empty<2>(weight, shape);
  const kernels::patch_embed::Gather gather(gather_params(cells, patches, grid, scale));
  torch::stable::parallel_for(0, grid.patches(), patches_per_thread(grid),
                              [&](int64_t first, int64_t last) { gather.run(first, last); });
  return patches;
}

}  // namespace

Tensor patch_embed_cpu(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                       double lora_scale, int64_t scale, const std::optional<Tensor>& input_scale) {
  const kernels::PatchGrid grid = check_patch_embed(cells, weight, bias, lora_a, lora_b, scale, input_scale);
  const int64_t D = weight.size(0), K = grid.features();
  const int64_t tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  if (grid.batch == 0 || D == 0) return empty<3>(weight, {grid.batch, tokens, D});

  const auto flat_a = lora_a ? std::optional(reshape<2>(*lora_a, {lora_a->size(0), K})) : std::nullopt;
  const Tensor out = linear_cpu(patches_of(cells, grid, InputScale(input_scale), weight),
                                reshape_transposed(weight, D, K), bias, flat_a, lora_b, lora_scale);
  return reshape<3>(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

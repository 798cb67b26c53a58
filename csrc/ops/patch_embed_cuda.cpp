#include "kernels/patch_embed/cuda.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/patch_cuda.h"
#include "ops/patch_embed_params.h"

namespace ddit::ops {
namespace {

// [patches, features], of the weight's dtype
Tensor patches_of(const CudaCall& call, const Tensor& cells, const kernels::PatchGrid& grid,
                  const InputScale& scale, const Tensor& weight) {
  const std::array<int64_t, 2> shape = {grid.patches(), grid.features()};
  if (holds_patches(cells, grid, scale)) return reshape<2>(cells, shape);
  Tensor patches = empty<2>(weight, shape);
  call.check(kernels::patch_embed::gather_cuda(gather_params(cells, patches, grid, scale), call.stream()));
  return patches;
}

}  // namespace

Tensor patch_embed_cuda(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                        double lora_scale, int64_t scale, const std::optional<Tensor>& input_scale) {
  const kernels::PatchGrid grid = check_patch_embed(cells, weight, bias, lora_a, lora_b, scale, input_scale);
  const int64_t D = weight.size(0), K = grid.features();
  const int64_t tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  const int64_t factors = input_scale ? input_scale->numel() : 0;
  check_patches_cuda("patch_embed", weight, grid, std::max(D, factors));
  if (grid.batch == 0 || D == 0) return empty<3>(weight, {grid.batch, tokens, D});

  const CudaCall call("patch_embed", cells);
  const auto flat_a = lora_a ? std::optional(reshape<2>(*lora_a, {lora_a->size(0), K})) : std::nullopt;
  const Tensor patches = patches_of(call, cells, grid, InputScale(input_scale), weight);
  const Tensor out =
      linear_cuda(call, patches, reshape_transposed(weight, D, K), bias, flat_a, lora_b, lora_scale);
  return reshape<3>(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

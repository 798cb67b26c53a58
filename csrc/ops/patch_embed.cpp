#include <algorithm>

#include "kernels/patch_embed/params.h"
#include "ops/linear.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// FLUX's packed tokens at scale 1 are a matrix of patches already.
bool holds_patches(const Tensor& cells, const kernels::PatchGrid& grid) {
  return grid.scale == 1 && cells.is_contiguous();
}

// patches: room for [grid.patches(), grid.features()]
void gather(const Tensor& cells, const kernels::PatchGrid& grid, void* patches) {
  kernels::patch_embed::Params params{
      cells.const_data_ptr(), {}, patches, static_cast<int64_t>(cells.element_size()), grid};
  const auto strides = cells.strides();
  std::copy(strides.begin(), strides.end(), params.strides.begin());
  const kernels::patch_embed::Gather gather(params);
  torch::stable::parallel_for(0, grid.patches(), patches_per_thread(grid),
                              [&](int64_t first, int64_t last) { gather.run(first, last); });
}

Tensor patches_of(const Tensor& cells, const kernels::PatchGrid& grid) {
  if (holds_patches(cells, grid)) return reshape<2>(cells, {grid.patches(), grid.features()});
  Tensor patches = empty<2>(cells, {grid.patches(), grid.features()});
  gather(cells, grid, patches.mutable_data_ptr());
  return patches;
}

}  // namespace

Tensor patch_embed_cpu(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                       double lora_scale, int64_t scale) {
  const kernels::PatchGrid grid = check_patch_embed(cells, weight, bias, lora_a, lora_b, scale);
  const int64_t D = weight.size(0), K = grid.features();
  const int64_t tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  if (grid.batch == 0 || D == 0) return empty<3>(cells, {grid.batch, tokens, D});

  const auto flat_a = lora_a ? std::optional(reshape<2>(*lora_a, {lora_a->size(0), K})) : std::nullopt;
  const Tensor out =
      linear_cpu(patches_of(cells, grid), reshape_transposed(weight, D, K), bias, flat_a, lora_b, lora_scale);
  return reshape<3>(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

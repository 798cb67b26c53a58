#include "kernels/patch_embed/params.h"
#include "ops/linear.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// [grid.patches(), grid.features()]
Tensor gather(const Tensor& cells, const kernels::PatchGrid& grid) {
  // FLUX's packed tokens at scale 1: already a matrix of patches.
  if (grid.scale == 1 && cells.is_contiguous()) {
    return reshape<2>(cells, {grid.patches(), grid.features()});
  }
  Tensor patches = empty<2>(cells, {grid.patches(), grid.features()});
  kernels::patch_embed::Params params{cells.const_data_ptr(),
                                      {},
                                      patches.mutable_data_ptr(),
                                      static_cast<int64_t>(cells.element_size()),
                                      grid};
  for (int64_t i = 0; i < 7; ++i) params.strides[i] = cells.stride(i);
  const kernels::patch_embed::Gather gather(params);
  torch::stable::parallel_for(0, grid.patches(), patches_per_thread(grid),
                              [&](int64_t first, int64_t last) { gather.run(first, last); });
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
      linear_cpu(gather(cells, grid), reshape_transposed(weight, D, K), bias, flat_a, lora_b, lora_scale);
  return reshape<3>(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

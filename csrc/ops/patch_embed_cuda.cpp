#include <algorithm>

#include "kernels/patch_embed/cuda.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/patch_cuda.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// [patches, features]
Tensor patches_of(const CudaCall& call, const Tensor& cells, const kernels::PatchGrid& grid) {
  // FLUX's packed tokens at scale 1 are a matrix of patches already.
  if (grid.scale == 1 && cells.is_contiguous()) {
    return reshape<2>(cells, {grid.patches(), grid.features()});
  }
  Tensor patches = empty<2>(cells, {grid.patches(), grid.features()});
  kernels::patch_embed::Params params{cells.const_data_ptr(),
                                      {},
                                      patches.mutable_data_ptr(),
                                      static_cast<int64_t>(cells.element_size()),
                                      grid};
  const auto strides = cells.strides();
  std::copy(strides.begin(), strides.end(), params.strides.begin());
  call.check(kernels::patch_embed::gather_cuda(params, call.stream()));
  return patches;
}

}  // namespace

Tensor patch_embed_cuda(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                        double lora_scale, int64_t scale) {
  const kernels::PatchGrid grid = check_patch_embed(cells, weight, bias, lora_a, lora_b, scale);
  const int64_t D = weight.size(0), K = grid.features();
  const int64_t tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  check_patches_cuda("patch_embed", cells, grid, D);
  if (grid.batch == 0 || D == 0) return empty<3>(cells, {grid.batch, tokens, D});

  const CudaCall call("patch_embed", cells);
  const auto flat_a = lora_a ? std::optional(reshape<2>(*lora_a, {lora_a->size(0), K})) : std::nullopt;
  const Tensor out = linear_cuda(call, patches_of(call, cells, grid), reshape_transposed(weight, D, K), bias,
                                 flat_a, lora_b, lora_scale);
  return reshape<3>(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

#include "kernels/patch_deembed/cuda.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/patch_cuda.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// [B, N, D] -> [B * N, D], a view also where the tokens stand behind others in a single sample's sequence.
Tensor matrix_of(const Tensor& tokens) {
  const int64_t B = tokens.size(0), N = tokens.size(1), D = tokens.size(2);
  const bool rows_follow = B == 1 || tokens.stride(0) == N * tokens.stride(1);
  if (tokens.stride(2) == 1 && tokens.stride(1) >= D && rows_follow) {
    return reinterpret<2>(tokens, {B * N, D}, {tokens.stride(1), 1});
  }
  return reshape<2>(tokens, {B * N, D});
}

}  // namespace

Tensor patch_deembed_cuda(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                          double lora_scale, int64_t scale, const std::vector<int64_t>& grid_sizes) {
  const kernels::PatchGrid grid =
      check_patch_deembed(tokens, weight, bias, lora_a, lora_b, scale, grid_sizes);
  const int64_t D = tokens.size(2), K = grid.features();
  const std::array<int64_t, 7> shape = {grid.batch,    grid.frames, grid.rows, grid.cols,
                                        grid.channels, grid.p,      grid.p};
  check_patches_cuda("patch_deembed", tokens, grid, D);
  if (grid.batch == 0) return empty(tokens, shape);

  const CudaCall call("patch_deembed", tokens);
  const auto flat_bias = bias ? std::optional(reshape<1>(*bias, {K})) : std::nullopt;
  const auto flat_b = lora_b ? std::optional(reshape<2>(*lora_b, {K, lora_b->size(3)})) : std::nullopt;
  const Tensor patches = linear_cuda(call, matrix_of(tokens), reshape_transposed(weight, K, D), flat_bias,
                                     lora_a, flat_b, lora_scale);
  if (grid.scale == 1) return reshape(patches, shape);  // a patch is a cell: the product is the result
  Tensor cells = empty(patches, shape);
  const kernels::patch_deembed::Params params{patches.const_data_ptr(), cells.mutable_data_ptr(),
                                              static_cast<int64_t>(cells.element_size()), grid};
  call.check(kernels::patch_deembed::scatter_cuda(params, call.stream()));
  return cells;
}

}  // namespace ddit::ops

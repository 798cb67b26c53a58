#include "kernels/patch_deembed/params.h"
#include "ops/linear.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {
namespace {

std::array<int64_t, 7> cells_shape(const kernels::PatchGrid& grid) {
  return {grid.batch, grid.frames, grid.rows, grid.cols, grid.channels, grid.p, grid.p};
}

// patches: [grid.patches(), grid.features()], contiguous, with elements as large as those of `cells`
void scatter(const void* patches, const Tensor& cells, const kernels::PatchGrid& grid) {
  const kernels::patch_deembed::Params params{patches, cells.mutable_data_ptr(),
                                              static_cast<int64_t>(cells.element_size()), grid};
  torch::stable::parallel_for(0, grid.patches(), patches_per_thread(grid), [&](int64_t first, int64_t last) {
    kernels::patch_deembed::scatter_cpu(params, first, last);
  });
}

}  // namespace

Tensor patch_deembed_cpu(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                         double lora_scale, int64_t scale, const std::vector<int64_t>& grid_sizes) {
  const kernels::PatchGrid grid =
      check_patch_deembed(tokens, weight, bias, lora_a, lora_b, scale, grid_sizes);
  const int64_t D = tokens.size(2), K = grid.features();
  const std::array<int64_t, 7> shape = cells_shape(grid);
  const bool whole = grid.scale == 1;  // a patch is a cell: the product is the result
  const auto flat_bias = bias ? std::optional(reshape<1>(*bias, {K})) : std::nullopt;
  const auto flat_b = lora_b ? std::optional(reshape<2>(*lora_b, {K, lora_b->size(3)})) : std::nullopt;
  const Tensor patches = linear_cpu(reshape<2>(tokens, {grid.patches(), D}), reshape_transposed(weight, K, D),
                                    flat_bias, lora_a, flat_b, lora_scale);
  if (whole) return reshape(patches, shape);
  Tensor cells = empty(patches, shape);
  scatter(patches.const_data_ptr(), cells, grid);
  return cells;
}

}  // namespace ddit::ops

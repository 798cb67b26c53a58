#include <torch/csrc/stable/ops.h>

#include "kernels/patch_deembed/params.h"
#include "ops/checks.h"
#include "ops/linear.h"
#include "ops/ops.h"

namespace ddit::ops {
namespace {

constexpr const char* kOp = "patch_deembed";
constexpr int64_t kMostCells = 1 << 20;  // in each direction: their product stays an int64

kernels::PatchGrid checked_grid(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                                const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                                int64_t scale, const std::vector<int64_t>& grid_sizes) {
  check_dim(kOp, "tokens", tokens, 3, "[B, N, D]");
  check_floating(kOp, "tokens", tokens);
  check(scale >= 1, kOp, ": scale must be at least 1, got ", scale);
  check(grid_sizes.size() == 3, kOp, ": grid must be [F, h, w], got ", show(grid_sizes));
  for (int64_t size : grid_sizes) {
    check(size >= 1 && size <= kMostCells, kOp, ": grid must be [F, h, w] of 1 to ", kMostCells, ", got ",
          show(grid_sizes));
  }
  check_dim(kOp, "weight", weight, 4, "[C, s*p, s*p, D]");
  const int64_t C = weight.size(0), side = weight.size(1), D = tokens.size(2);
  check(C > 0 && side > 0 && weight.size(2) == side && side % scale == 0, kOp,
        ": weight must have shape [C, s*p, s*p, D] with s = scale = ", scale, ", got ", show_shape(weight));
  check_shape(kOp, "weight", weight, {C, side, side, D}, "[C, s*p, s*p, D]");
  check_same_kind(kOp, "weight", weight, "tokens", tokens);

  const kernels::PatchGrid grid{tokens.size(0), grid_sizes[0], grid_sizes[1], grid_sizes[2], C,
                                side / scale,   scale};
  const int64_t expected = grid.frames * grid.patch_rows() * grid.patch_cols();
  check(tokens.size(1) == expected, kOp, ": tokens must have F*ceil(h/s)*ceil(w/s) = ", expected,
        " tokens for grid ", show(grid_sizes), " and scale ", scale, ", got shape ", show_shape(tokens));
  if (bias) {
    check_shape(kOp, "bias", *bias, {C, side, side}, "[C, s*p, s*p]");
    check_same_kind(kOp, "bias", *bias, "tokens", tokens);
  }
  check_lora_pair(kOp, lora_a, lora_b);
  if (lora_a) {
    check_dim(kOp, "lora_a", *lora_a, 2, "[r, D]");
    const int64_t r = lora_a->size(0);
    check_shape(kOp, "lora_a", *lora_a, {r, D}, "[r, D]");
    check_shape(kOp, "lora_b", *lora_b, {C, side, side, r}, "[C, s*p, s*p, r]");
    check_same_kind(kOp, "lora_a", *lora_a, "tokens", tokens);
    check_same_kind(kOp, "lora_b", *lora_b, "tokens", tokens);
  }
  return grid;
}

// patches [grid.patches(), grid.features()] -> cells [B, F, h, w, C, p, p]
Tensor scatter(const Tensor& patches, const kernels::PatchGrid& grid) {
  const std::vector<int64_t> shape{grid.batch,    grid.frames, grid.rows, grid.cols,
                                   grid.channels, grid.p,      grid.p};
  if (grid.scale == 1) return torch::stable::view(patches, shape);
  Tensor cells = torch::stable::new_empty(patches, shape);
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
  const kernels::PatchGrid grid = checked_grid(tokens, weight, bias, lora_a, lora_b, scale, grid_sizes);
  const int64_t D = tokens.size(2), K = grid.features();
  const auto flat = [](const std::optional<Tensor>& tensor, std::vector<int64_t> shape) {
    return tensor ? std::optional(torch::stable::reshape(*tensor, shape)) : std::nullopt;
  };
  const int64_t r = lora_a ? lora_a->size(0) : 0;
  const Tensor patches =
      linear_cpu(torch::stable::reshape(tokens, {grid.patches(), D}), torch::stable::reshape(weight, {K, D}),
                 flat(bias, {K}), lora_a, flat(lora_b, {K, r}), lora_scale);
  return scatter(patches, grid);
}

}  // namespace ddit::ops

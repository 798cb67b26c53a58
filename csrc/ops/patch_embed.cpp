#include <torch/csrc/stable/ops.h>

#include "kernels/patch_embed/params.h"
#include "ops/checks.h"
#include "ops/linear.h"
#include "ops/ops.h"

namespace ddit::ops {
namespace {

constexpr const char* kOp = "patch_embed";

kernels::PatchGrid checked_grid(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                                const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                                int64_t scale) {
  check_dim(kOp, "cells", cells, 7, "[B, F, h, w, C, p, p]");
  check(cells.size(5) == cells.size(6), kOp, ": cells must have square patches [B, F, h, w, C, p, p], got ",
        show_shape(cells));
  for (int64_t i = 1; i < 7; ++i) {
    check(cells.size(i) > 0, kOp, ": cells must not be empty but for its batch, got ", show_shape(cells));
  }
  check_floating(kOp, "cells", cells);
  check(scale >= 1, kOp, ": scale must be at least 1, got ", scale);
  check_dim(kOp, "weight", weight, 4, "[D, C, s*p, s*p]");
  // Also keeps s*p from overflowing below.
  check(scale <= weight.size(2), kOp, ": weight must have shape [D, C, s*p, s*p] with s = scale = ", scale,
        ", got ", show_shape(weight));

  const kernels::PatchGrid grid{cells.size(0), cells.size(1), cells.size(2), cells.size(3),
                                cells.size(4), cells.size(5), scale};
  const int64_t D = weight.size(0), C = grid.channels, side = grid.side();
  check_shape(kOp, "weight", weight, {D, C, side, side}, "[D, C, s*p, s*p]");
  check_same_kind(kOp, "weight", weight, "cells", cells);
  if (bias) {
    check_shape(kOp, "bias", *bias, {D}, "[D]");
    check_same_kind(kOp, "bias", *bias, "cells", cells);
  }
  check_lora_pair(kOp, lora_a, lora_b);
  if (lora_a) {
    check_dim(kOp, "lora_a", *lora_a, 4, "[r, C, s*p, s*p]");
    const int64_t r = lora_a->size(0);
    check_shape(kOp, "lora_a", *lora_a, {r, C, side, side}, "[r, C, s*p, s*p]");
    check_shape(kOp, "lora_b", *lora_b, {D, r}, "[D, r]");
    check_same_kind(kOp, "lora_a", *lora_a, "cells", cells);
    check_same_kind(kOp, "lora_b", *lora_b, "cells", cells);
  }
  return grid;
}

// [grid.patches(), grid.features()]
Tensor gather(const Tensor& cells, const kernels::PatchGrid& grid) {
  // FLUX's packed tokens at scale 1: already a matrix of patches.
  if (grid.scale == 1 && cells.is_contiguous()) {
    return torch::stable::view(cells, {grid.patches(), grid.features()});
  }
  Tensor patches = torch::stable::new_empty(cells, {grid.patches(), grid.features()});
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
  const kernels::PatchGrid grid = checked_grid(cells, weight, bias, lora_a, lora_b, scale);
  const int64_t D = weight.size(0), K = grid.features();
  const int64_t tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  if (grid.batch == 0 || D == 0) return torch::stable::new_empty(cells, {grid.batch, tokens, D});

  const auto flat_a =
      lora_a ? std::optional(torch::stable::reshape(*lora_a, {lora_a->size(0), K})) : std::nullopt;
  const Tensor out = linear_cpu(gather(cells, grid), torch::stable::reshape(weight, {D, K}), bias, flat_a,
                                lora_b, lora_scale);
  return torch::stable::view(out, {grid.batch, tokens, D});
}

}  // namespace ddit::ops

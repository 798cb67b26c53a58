#include "ops/patch_checks.h"

#include "ops/checks.h"

namespace ddit::ops {
namespace {

constexpr int64_t kMostCells = 1 << 20;  // in each direction: their product stays an int64

// What is multiplied is rounded after it: then float32 cells may meet a lower weight.
void check_weight_kind(const char* op, const Tensor& weight, const Tensor& cells,
                       const std::optional<Tensor>& input_scale) {
  if (!input_scale || cells.scalar_type() != ScalarType::Float) {
    return check_same_kind(op, "weight", weight, "cells", cells);
  }
  const ScalarType dtype = weight.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op,
        ": weight must be float32, bfloat16 or float16 with cells of float32, got ", dtype_name(dtype));
  check_same_device(op, "weight", Kind(weight), "cells", Kind(cells));
}

void check_input_scale(const char* op, const Tensor& input_scale, const Tensor& cells) {
  const int64_t B = cells.size(0), C = cells.size(4);
  check(input_scale.dim() == 2 && (input_scale.size(0) == B || input_scale.size(0) == 1) &&
            (input_scale.size(1) == C || input_scale.size(1) == 1),
        op, ": input_scale must have shape [B or 1, C or 1] with B = ", B, " and C = ", C, ", got ",
        show_shape(input_scale));
  check(input_scale.scalar_type() == ScalarType::Float, op, ": input_scale must be float32, got ",
        dtype_name(input_scale.scalar_type()));
  check_same_device(op, "input_scale", Kind(input_scale), "cells", Kind(cells));
}

}  // namespace

kernels::PatchGrid check_patch_embed(const Tensor& cells, const Tensor& weight,
                                     const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                                     const std::optional<Tensor>& lora_b, int64_t scale,
                                     const std::optional<Tensor>& input_scale) {
  constexpr const char* kOp = "patch_embed";
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
  check_weight_kind(kOp, weight, cells, input_scale);
  if (input_scale) check_input_scale(kOp, *input_scale, cells);
  if (bias) {
    check_shape(kOp, "bias", *bias, {D}, "[D]");
    check_same_kind(kOp, "bias", *bias, "weight", weight);
  }
  check_lora_pair(kOp, lora_a, lora_b);
  if (lora_a) {
    check_dim(kOp, "lora_a", *lora_a, 4, "[r, C, s*p, s*p]");
    const int64_t r = lora_a->size(0);
    check_shape(kOp, "lora_a", *lora_a, {r, C, side, side}, "[r, C, s*p, s*p]");
    check_shape(kOp, "lora_b", *lora_b, {D, r}, "[D, r]");
    check_same_kind(kOp, "lora_a", *lora_a, "weight", weight);
    check_same_kind(kOp, "lora_b", *lora_b, "weight", weight);
  }
  return grid;
}

kernels::PatchGrid check_patch_deembed(const Tensor& tokens, const Tensor& weight,
                                       const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                                       const std::optional<Tensor>& lora_b, int64_t scale,
                                       const std::vector<int64_t>& grid_sizes) {
  constexpr const char* kOp = "patch_deembed";
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

}  // namespace ddit::ops

// Every schema of the library. The emulation of the CUDA kernels registers the same ones in a namespace of
// its own.
#pragma once

#include <torch/csrc/stable/library.h>

namespace ddit::ops {

inline void define_schemas(torch::stable::detail::StableLibrary& m) {
  // cells [B, F, h, w, C, p, p], weight [D, C, s*p, s*p], bias [D], lora_a [r, C, s*p, s*p], lora_b [D, r],
  // input_scale [B or 1, C or 1] float32 -> tokens [B, F*ceil(h/s)*ceil(w/s), D], of the weight's dtype
  m.def(
      "patch_embed(Tensor cells, Tensor weight, Tensor? bias, Tensor? lora_a, Tensor? lora_b, "
      "float lora_scale, int scale, Tensor? input_scale=None) -> Tensor");

  // tokens [B, N, D], weight [C, s*p, s*p, D], bias [C, s*p, s*p], lora_a [r, D], lora_b [C, s*p, s*p, r],
  // grid = [F, h, w] -> cells [B, F, h, w, C, p, p], contiguous. SymInt: compiled, one graph serves every
  // grid.
  m.def(
      "patch_deembed(Tensor tokens, Tensor weight, Tensor? bias, Tensor? lora_a, Tensor? lora_b, "
      "float lora_scale, int scale, SymInt[] grid) -> Tensor");

  // z0 (newest) to z3: cells [B, F, h, w, C, p, p] -> [B, len(scales)] float32
  m.def(
      "acceleration_quantiles(Tensor z0, Tensor z1, Tensor z2, Tensor z3, int[] scales, float quantile) "
      "-> Tensor");
}

}  // namespace ddit::ops

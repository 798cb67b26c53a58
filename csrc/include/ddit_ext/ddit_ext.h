// The ops on at::Tensor: the one public header with torch types. Link ddit_ext::ddit_ext and ddit_ext::torch.
// Names, argument order and shapes are those of ddit_ext.ops in Python; misfits are std::exceptions that name
// the argument. Inference only: the backward passes are registered from Python.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "ddit_ext/budget_policy.h"
#include "ddit_ext/latent_history.h"
#include "ddit_ext/patch_scheduler.h"
#include "ddit_ext/planned_policy.h"

namespace ddit {

using OptionalTensor = std::optional<at::Tensor>;

// FLUX's packed tokens [B, h*w, C*p*p] as cells [B, 1, h, w, C, p, p], a view.
inline at::Tensor cells_from_packed(const at::Tensor& tokens, int64_t h, int64_t w, int64_t p = 2) {
  TORCH_CHECK_VALUE(p >= 1, "cells_from_packed: p must be at least 1, got ", p);
  TORCH_CHECK_VALUE(tokens.dim() == 3 && h >= 1 && w >= 1 && tokens.size(1) == h * w && tokens.size(2) > 0 &&
                        tokens.size(2) % (p * p) == 0,
                    "cells_from_packed: tokens must have shape [B, h*w, C*p*p] with h = ", h, ", w = ", w,
                    ", p = ", p, ", got ", tokens.sizes());
  const int64_t channels = tokens.size(2) / (p * p);
  return tokens.unflatten(2, {channels, p, p}).unflatten(1, {1, h, w});
}

// Latents [B, C, H, W] or [B, C, F, H, W] as cells [B, F, H/p, W/p, C, p, p], a view.
inline at::Tensor cells_from_latents(const at::Tensor& latents, int64_t p = 2) {
  TORCH_CHECK_VALUE(p >= 1, "cells_from_latents: p must be at least 1, got ", p);
  TORCH_CHECK_VALUE(latents.dim() == 4 || latents.dim() == 5,
                    "cells_from_latents: latents must have shape [B, C, H, W] or [B, C, F, H, W], got ",
                    latents.sizes());
  const at::Tensor video = latents.dim() == 5 ? latents : latents.unsqueeze(2);
  const int64_t height = video.size(3), width = video.size(4);
  TORCH_CHECK_VALUE(height > 0 && width > 0 && height % p == 0 && width % p == 0,
                    "cells_from_latents: latents must have a height and width that are multiples of p = ", p,
                    ", got ", height, " x ", width);
  return video.unflatten(4, {width / p, p}).unflatten(3, {height / p, p}).permute({0, 2, 3, 5, 1, 4, 6});
}

inline at::Tensor patch_embed(const at::Tensor& cells, const at::Tensor& weight,
                              const OptionalTensor& bias = {}, const OptionalTensor& lora_a = {},
                              const OptionalTensor& lora_b = {}, double lora_scale = 1.0, int64_t scale = 1) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("ddit_ext::patch_embed", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                            const OptionalTensor&, const OptionalTensor&, double, int64_t)>();
  return op.call(cells, weight, bias, lora_a, lora_b, lora_scale, scale);
}

inline at::Tensor patch_deembed(const at::Tensor& tokens, const at::Tensor& weight,
                                const OptionalTensor& bias, const OptionalTensor& lora_a,
                                const OptionalTensor& lora_b, double lora_scale, int64_t scale,
                                at::IntArrayRef grid) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("ddit_ext::patch_deembed", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const OptionalTensor&,
                                               const OptionalTensor&, const OptionalTensor&, double, int64_t,
                                               at::IntArrayRef)>();
  return op.call(tokens, weight, bias, lora_a, lora_b, lora_scale, scale, grid);
}

inline at::Tensor acceleration_quantiles(const at::Tensor& z0, const at::Tensor& z1, const at::Tensor& z2,
                                         const at::Tensor& z3, at::IntArrayRef scales, double quantile) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("ddit_ext::acceleration_quantiles", "")
                             .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                               const at::Tensor&, at::IntArrayRef, double)>();
  return op.call(z0, z1, z2, z3, scales, quantile);
}

}  // namespace ddit

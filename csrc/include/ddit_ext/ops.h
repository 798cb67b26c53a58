// The three ops and the views they take, on at::Tensor. Names, argument order and shapes are those of
// ddit_ext.ops in Python; misfits are std::exceptions that name the argument. Inference only: the backward
// passes are registered from Python.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/headeronly/version.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "ddit_ext/version.h"

#if TORCH_VERSION_MAJOR < 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 10)
#error "ddit_ext needs torch 2.10 or later"
#endif

extern "C" uint64_t aoti_torch_abi_version();  // of the libtorch that is loaded

namespace ddit {

using OptionalTensor = std::optional<at::Tensor>;

namespace detail {

// Every tensor of a call is there and on the device of the first one.
inline void check_tensor(const char* op, const char* name, const at::Tensor& tensor, const char* like_name,
                         const at::Tensor& like) {
  TORCH_CHECK_VALUE(tensor.defined(), op, ": ", name, " must be a tensor, got an undefined one");
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, op, ": ", name, " must be a dense tensor, got ",
                    tensor.layout());
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": ", name, " must be on the device of ", like_name,
                    ", ", like.device(), ", got ", tensor.device());
}

inline void check_optional(const char* op, const char* name, const OptionalTensor& tensor,
                           const char* like_name, const at::Tensor& like) {
  if (tensor) check_tensor(op, name, *tensor, like_name, like);
}

// "0.2.1" -> "0.2"
inline std::string minor_of(const std::string& version) { return version.substr(0, version.rfind('.')); }

// What was compiled together has to meet again, in versions that differ in their last number at most: these
// headers and libddit_ext.so, whose schemas stay the same that long; at::Tensor and libtorch.
inline void check_versions(const std::string& library, uint64_t torch_met) {
  if (minor_of(library) != minor_of(DDIT_EXT_VERSION))
    throw std::runtime_error(
        "ddit_ext: the program was compiled with the headers of ddit_ext " DDIT_EXT_VERSION
        " and has loaded libddit_ext.so " +
        library);
  const auto minor = [](uint64_t version) {  // 0xMMmmpp in the upper bytes -> "2.13"
    return std::to_string(version >> 56) + "." + std::to_string(version >> 48 & 0xFF);
  };
  if (torch_met >> 48 != static_cast<uint64_t>(TORCH_ABI_VERSION) >> 48)
    throw std::runtime_error("ddit_ext: the program was compiled with the headers of torch " +
                             minor(TORCH_ABI_VERSION) + " and has loaded libtorch " + minor(torch_met));
}

template <class Signature>
auto find_op(const char* name) {
  check_versions(ddit_ext_version(), aoti_torch_abi_version());
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace detail

// FLUX's packed tokens [B, h*w, C*p*p] as cells [B, 1, h, w, C, p, p], a view.
inline at::Tensor cells_from_packed(const at::Tensor& tokens, int64_t h, int64_t w, int64_t p = 2) {
  detail::check_tensor("cells_from_packed", "tokens", tokens, "tokens", tokens);
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
  detail::check_tensor("cells_from_latents", "latents", latents, "latents", latents);
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
                              const OptionalTensor& lora_b = {}, double lora_scale = 1.0, int64_t scale = 1,
                              const OptionalTensor& input_scale = {}) {
  static const auto op = detail::find_op<at::Tensor(
      const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, double, int64_t, const OptionalTensor&)>("ddit_ext::patch_embed");
  detail::check_tensor("patch_embed", "cells", cells, "cells", cells);
  detail::check_tensor("patch_embed", "weight", weight, "cells", cells);
  detail::check_optional("patch_embed", "bias", bias, "cells", cells);
  detail::check_optional("patch_embed", "lora_a", lora_a, "cells", cells);
  detail::check_optional("patch_embed", "lora_b", lora_b, "cells", cells);
  detail::check_optional("patch_embed", "input_scale", input_scale, "cells", cells);
  return op.call(cells, weight, bias, lora_a, lora_b, lora_scale, scale, input_scale);
}

inline at::Tensor patch_deembed(const at::Tensor& tokens, const at::Tensor& weight,
                                const OptionalTensor& bias, const OptionalTensor& lora_a,
                                const OptionalTensor& lora_b, double lora_scale, int64_t scale,
                                at::IntArrayRef grid) {
  static const auto op = detail::find_op<at::Tensor(
      const at::Tensor&, const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, double, int64_t, at::IntArrayRef)>("ddit_ext::patch_deembed");
  detail::check_tensor("patch_deembed", "tokens", tokens, "tokens", tokens);
  detail::check_tensor("patch_deembed", "weight", weight, "tokens", tokens);
  detail::check_optional("patch_deembed", "bias", bias, "tokens", tokens);
  detail::check_optional("patch_deembed", "lora_a", lora_a, "tokens", tokens);
  detail::check_optional("patch_deembed", "lora_b", lora_b, "tokens", tokens);
  return op.call(tokens, weight, bias, lora_a, lora_b, lora_scale, scale, grid);
}

inline at::Tensor acceleration_quantiles(const at::Tensor& z0, const at::Tensor& z1, const at::Tensor& z2,
                                         const at::Tensor& z3, at::IntArrayRef scales, double quantile) {
  static const auto op =
      detail::find_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                 at::IntArrayRef, double)>("ddit_ext::acceleration_quantiles");
  detail::check_tensor("acceleration_quantiles", "z0", z0, "z0", z0);
  detail::check_tensor("acceleration_quantiles", "z1", z1, "z0", z0);
  detail::check_tensor("acceleration_quantiles", "z2", z2, "z0", z0);
  detail::check_tensor("acceleration_quantiles", "z3", z3, "z0", z0);
  return op.call(z0, z1, z2, z3, scales, quantile);
}

}  // namespace ddit

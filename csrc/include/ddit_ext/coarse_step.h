// One coarse call of a transformer: what goes into its blocks, and the velocity from what comes out. The same
// computation as ddit_ext/coarse/scale_weights.py; docs/design/coarse-step.md derives it. Has torch types.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/replication_pad2d.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "ddit_ext/adapter.h"
#include "ddit_ext/ops.h"

namespace ddit {

// Float32 coordinates [ceil(count / s)] of merged cells along one axis of `count` base cells, in units of
// those.
inline at::Tensor coarse_positions(int64_t count, const ScaleSpec& spec, at::Device device = at::kCPU) {
  TORCH_CHECK_VALUE(count >= 1, "coarse_positions: count must be at least 1, got ", count);
  const int64_t s = spec.scale;
  const at::Tensor index =
      at::arange((count + s - 1) / s, at::TensorOptions().dtype(at::kFloat).device(device));
  return spec.centred ? index * s + (s - 1) / 2.0 : index;
}

class CoarseStep {
 public:
  // cells [B, F, h, w, C_in, p, p], any strides, in the weights' dtype; the first C_out channels are the
  // noisy latent. sigma: noise levels [B] or [1] in [0, 1]. The weights have to outlive the step.
  CoarseStep(ScaleWeights&&, at::Tensor, const at::Tensor&) = delete;
  CoarseStep(const ScaleWeights& weights, at::Tensor cells, const at::Tensor& sigma)
      : weights_(weights), cells_(std::move(cells)) {
    const ScaleSpec& spec = weights_.spec;
    detail::check_tensor("CoarseStep", "cells", cells_, "cells", cells_);
    detail::check_tensor("CoarseStep", "sigma", sigma, "cells", cells_);
    TORCH_CHECK_VALUE(cells_.dim() == 7 && cells_.size(4) == spec.in_channels &&
                          cells_.size(5) == spec.patch_size && cells_.size(6) == spec.patch_size,
                      "CoarseStep: cells must have shape [B, F, h, w, ", spec.in_channels, ", ",
                      spec.patch_size, ", ", spec.patch_size, "], got ", cells_.sizes());
    const int64_t batch = cells_.size(0);
    TORCH_CHECK_VALUE(sigma.dim() == 1 && (sigma.size(0) == 1 || sigma.size(0) == batch),
                      "CoarseStep: sigma must have shape [", batch, "], got ", sigma.sizes());
    sigma_ = sigma.to(at::kFloat).expand({batch});
    match();
  }

  // [B] float32: the noise level that the blocks are told.
  const at::Tensor& timestep() const { return timestep_; }

  // [B, N_s, D]: the image tokens of the coarse patches.
  at::Tensor tokens() const {
    const ScaleSpec& spec = weights_.spec;
    OptionalTensor factor;
    if (spec.start != Start::kPiResize) {
      factor = input_scale_.unsqueeze(1);
      if (spec.in_channels > spec.out_channels) {  // clean conditions stay as they are
        const at::Tensor channel = at::arange(spec.in_channels, factor->options().dtype(at::kLong));
        factor = at::where(channel < spec.out_channels, *factor, 1.0);
      }
    }
    return patch_embed(cells_, weights_.embed_weight, weights_.embed_bias, {}, {}, 1.0, spec.scale, factor);
  }

  // tokens [B, N_s, D], what would have gone into the output projection -> velocity as cells
  // [B, F, h, w, C_out, p, p] in the cells' dtype.
  at::Tensor velocity(const at::Tensor& tokens) const {
    const ScaleSpec& spec = weights_.spec;
    const at::Tensor coarse = patch_deembed(tokens, weights_.deembed_weight, weights_.deembed_bias, {}, {},
                                            1.0, spec.scale, grid());
    const auto [pixels, low] = split_bands();
    at::Tensor alpha = alpha_, beta = beta_, gain = detail_gain(pixels, low);
    if (weights_.refinement) {
      const at::Tensor more = corrections(weights_.refinement->knots);
      alpha = alpha + more[0];
      beta = beta + more[1];
      gain = gain + more[2];
    }
    at::Tensor velocity = coarse * column(alpha) + join_bands(pixels, low, gain, beta);
    if (weights_.refinement) velocity += refine(*weights_.refinement, tokens);
    return velocity.to(cells_.scalar_type());
  }

 private:
  static at::Tensor column(const at::Tensor& values) { return values.view({-1, 1, 1, 1, 1, 1, 1}); }
  std::vector<int64_t> grid() const { return {cells_.size(1), cells_.size(2), cells_.size(3)}; }

  // The scalars of coarse/noise_match.py, [B] float32 each.
  void match() {
    const double s = static_cast<double>(weights_.spec.scale);
    if (weights_.spec.start == Start::kPiResize) {
      timestep_ = sigma_;
      input_scale_ = alpha_ = at::ones_like(sigma_);
      beta_ = at::zeros_like(sigma_);
      return;
    }
    const at::Tensor denominator = (1 - sigma_) * s + sigma_;
    timestep_ = sigma_ / denominator;
    input_scale_ = s / denominator;
    alpha_ = (1 - timestep_) / s + timestep_;
    beta_ = input_scale_ * (1 / s - 1);
    if (weights_.spec.start == Start::kBlended) blend();
  }

  // Goes over from the matched scalars to the latent and the timestep as they are, between two noise levels.
  void blend() {
    constexpr double kLow = 0.8, kHigh = 0.9;
    const at::Tensor share = ((sigma_ - kLow) / (kHigh - kLow)).clamp(0, 1), above = sigma_.clamp_min(kLow);
    timestep_ = at::pow(timestep_, 1 - share) * at::pow(sigma_, share);
    input_scale_ = at::pow(input_scale_, 1 - share);
    alpha_ = at::where(share > 0, timestep_ / above, alpha_);
    beta_ = at::where(share > 0, (1 - input_scale_) / above, beta_);
  }

  // Pixels [B, F, C, H, W] of the noisy latent and their s x s means, the last row and column repeated.
  std::pair<at::Tensor, at::Tensor> split_bands() const {
    const int64_t s = weights_.spec.scale, p = weights_.spec.patch_size, C = weights_.spec.out_channels;
    const int64_t B = cells_.size(0), F = cells_.size(1), H = cells_.size(2) * p, W = cells_.size(3) * p;
    at::Tensor pixels =
        cells_.narrow(4, 0, C).to(at::kFloat).permute({0, 1, 4, 2, 5, 3, 6}).reshape({B * F, C, H, W});
    const int64_t below = (s - H % s) % s, right = (s - W % s) % s;
    if (below > 0 || right > 0) pixels = at::replication_pad2d(pixels, {0, right, 0, below});
    const at::Tensor low = at::avg_pool2d(pixels, {s, s});
    return {pixels.unflatten(0, {B, F}), low.unflatten(0, {B, F})};
  }

  // g(sigma), [B] float32.
  at::Tensor detail_gain(const at::Tensor& pixels, const at::Tensor& low) const {
    constexpr double kLeast = 1e-3, kMost = 4.0, kLevelError = 0.005;
    const ScaleSpec& spec = weights_.spec;
    if (!spec.detail_residual) return at::zeros_like(sigma_);
    const double s = static_cast<double>(spec.scale);
    const at::Tensor clean2 = (1 - sigma_).square(), noise2 = sigma_.square();
    at::Tensor H;
    if (spec.detail_variance) {
      H = at::full_like(sigma_, std::max(*spec.detail_variance, kLeast));
    } else {
      const at::Tensor total = pixels.square().flatten(1).mean(1) - low.square().flatten(1).mean(1);
      const at::Tensor energy = total.clamp_min(0) / (1 - 1 / (s * s));
      const int64_t count = pixels[0].numel() - low[0].numel();
      const double prior = 1 - std::pow(s, -0.75);
      const at::Tensor expected = noise2 + clean2 * prior;
      const double relative =
          2.0 / static_cast<double>(std::max<int64_t>(count, 1)) + kLevelError * kLevelError;
      const at::Tensor error2 = relative * expected.square();
      const at::Tensor blend = prior * prior * clean2 * (energy - noise2) + error2 * prior;
      H = (blend / (prior * prior * clean2.square() + error2)).clamp(kLeast, kMost);
    }
    return (sigma_ - (1 - sigma_) * H) / (noise2 + clean2 * H);
  }

  // low_gain * up(low) + gain * (pixels - up(low)), as cells.
  at::Tensor join_bands(const at::Tensor& pixels, const at::Tensor& low, at::Tensor gain,
                        at::Tensor low_gain) const {
    const int64_t s = weights_.spec.scale, p = weights_.spec.patch_size, C = weights_.spec.out_channels;
    const int64_t B = cells_.size(0), F = cells_.size(1), H = pixels.size(3), W = pixels.size(4);
    const auto spread = [&](const at::Tensor& values) {
      return values.repeat_interleave(F).view({-1, 1, 1, 1, 1, 1});
    };
    gain = spread(gain);
    low_gain = spread(low_gain);
    const at::Tensor blocks = pixels.reshape({B * F, C, H / s, s, W / s, s});
    const at::Tensor up = low.flatten(0, 1).unsqueeze(3).unsqueeze(5) * (low_gain - gain);
    const at::Tensor joined = at::addcmul(up, blocks, gain)
                                  .view({B, F, C, H, W})
                                  .narrow(3, 0, cells_.size(2) * p)
                                  .narrow(4, 0, cells_.size(3) * p);
    return joined.unflatten(4, {cells_.size(3), p})
        .unflatten(3, {cells_.size(2), p})
        .permute({0, 1, 3, 5, 2, 4, 6});
  }

  // Piecewise linear in sigma between the knots: [3, B].
  at::Tensor corrections(const at::Tensor& knots) const {
    const at::Tensor position = sigma_.clamp(0, 1) * (knots.size(1) - 1);
    const at::Tensor left = position.to(at::kLong).clamp_max(knots.size(1) - 2);
    return at::lerp(knots.index_select(1, left), knots.index_select(1, left + 1), position - left);
  }

  // The perceptron's addition to the velocity, as cells.
  at::Tensor refine(const Refinement& part, const at::Tensor& tokens) const {
    const at::Tensor frequencies =
        at::arange(part.level_weight.size(1), sigma_.options()) * 3.14159265358979323846;
    const at::Tensor level =
        (sigma_.unsqueeze(1) * frequencies).cos().matmul(part.level_weight.to(at::kFloat).t());
    at::Tensor hidden =
        patch_embed(cells_, part.input_weight, part.input_bias, {}, {}, 1.0, weights_.spec.scale);
    hidden = hidden + level.unsqueeze(1).to(hidden.scalar_type());
    if (part.token_weight.defined()) hidden = hidden + at::linear(tokens, part.token_weight);
    hidden = at::silu(hidden);
    return patch_deembed(hidden, part.output_weight, part.output_bias, {}, {}, 1.0, weights_.spec.scale,
                         grid());
  }

  const ScaleWeights& weights_;
  at::Tensor cells_;
  at::Tensor sigma_;  // [B]
  at::Tensor timestep_, input_scale_, alpha_, beta_;
};

}  // namespace ddit

#include "ddit_ext/plain.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/acceleration_quantiles/params.h"
#include "kernels/contiguous.h"
#include "kernels/patch_deembed/params.h"
#include "kernels/patch_embed/params.h"

namespace ddit::plain {
namespace {

using Shape = Cells::Shape;

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

std::string show(const Shape& values) {
  std::ostringstream text;
  for (size_t i = 0; i < values.size(); ++i) text << (i ? ", " : "[") << values[i];
  return text.str() + "]";
}

// The product of sizes, none of them negative; an overflow is the caller's mistake.
int64_t product(const char* op, const char* name, std::initializer_list<int64_t> sizes) {
  const std::optional<int64_t> all = kernels::count_floats(sizes);
  check(all.has_value(), op, ": ", name, " must have fewer elements than 64 bits can count");
  return *all;
}

kernels::PatchGrid checked_grid(const char* op, const char* name, const Shape& sizes, int64_t scale) {
  check(sizes[0] >= 0, op, ": ", name, " must have a batch of 0 or more, got ", show(sizes));
  for (size_t i = 1; i < sizes.size(); ++i)
    check(sizes[i] > 0, op, ": ", name, " must not be empty but for the batch, got ", show(sizes));
  check(sizes[5] == sizes[6], op, ": ", name, " must have square patches [B, F, h, w, C, p, p], got ",
        show(sizes));
  check(scale >= 1, op, ": scale must be at least 1, got ", scale);
  const kernels::PatchGrid grid{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], scale};
  const int64_t B = std::max<int64_t>(sizes[0], 1), most = std::numeric_limits<int64_t>::max();
  product(op, name, {B, sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]});
  product(op, "a patch at this scale", {sizes[4], sizes[5], sizes[6], scale, scale});
  // Ragged edges are rounded up: the patches may hold far more than the latent.
  check(std::max(sizes[2], sizes[3]) <= most - scale, op, ": scale must be smaller, got ", scale);
  product(op, "the patches at this scale",
          {B, sizes[1], grid.patch_rows(), grid.patch_cols(), grid.features()});
  return grid;
}

void check_view(const char* op, const char* name, const Cells& cells) {
  check(cells.data != nullptr || cells.sizes[0] == 0, op, ": ", name, " must point to a latent, got null");
  for (int64_t stride : cells.strides)
    check(stride >= 0, op, ": ", name, ": strides must not be negative, got ", show(cells.strides));
}

// to [M, N] = from [M, K] * weight [N, K]^T + bias [N]
void multiply(const float* from, const float* weight, const float* bias, int64_t M, int64_t N, int64_t K,
              float* to) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double sum = bias ? bias[n] : 0.0;
      for (int64_t k = 0; k < K; ++k) sum += static_cast<double>(from[m * K + k]) * weight[n * K + k];
      to[m * N + n] = static_cast<float>(sum);
    }
  }
}

}  // namespace

Cells Cells::contiguous(const float* data, const Shape& sizes) {
  checked_grid("Cells::contiguous", "sizes", sizes, 1);
  return {data, sizes, kernels::contiguous_strides(sizes)};
}

Cells Cells::from_packed(const float* tokens, int64_t B, int64_t h, int64_t w, int64_t C, int64_t p) {
  return contiguous(tokens, {B, 1, h, w, C, p, p});
}

Cells Cells::from_latents(const float* latents, int64_t B, int64_t C, int64_t F, int64_t H, int64_t W,
                          int64_t p) {
  check(p >= 1 && H > 0 && W > 0 && H % p == 0 && W % p == 0,
        "Cells::from_latents: H and W must be positive multiples of p = ", p, ", got ", H, " x ", W);
  const Shape sizes{B, F, H / p, W / p, C, p, p};
  checked_grid("Cells::from_latents", "latents", sizes, 1);
  return {latents, sizes, {C * F * H * W, H * W, p * W, p, F * H * W, W, 1}};
}

std::vector<float> patch_embed(const Cells& cells, const float* weight, const float* bias, int64_t D,
                               int64_t scale) {
  const kernels::PatchGrid grid = checked_grid("patch_embed", "cells", cells.sizes, scale);
  check_view("patch_embed", "cells", cells);
  check(weight != nullptr, "patch_embed: weight must be an array, got null");
  check(D >= 1, "patch_embed: D must be at least 1, got ", D);
  const int64_t M = grid.patches(), K = grid.features();
  product("patch_embed", "weight", {D, K});
  std::vector<float> patches(static_cast<size_t>(product("patch_embed", "the patches", {M, K})));
  std::vector<float> tokens(static_cast<size_t>(product("patch_embed", "the tokens", {M, D})));
  if (M == 0) return tokens;
  constexpr auto kFloat = kernels::DType::kFloat32;
  const kernels::patch_embed::Params params{cells.data, cells.strides, kFloat, patches.data(),
                                            kFloat,     grid,          {}};
  kernels::patch_embed::Gather(params).run(0, M);
  multiply(patches.data(), weight, bias, M, D, K, tokens.data());
  return tokens;
}

std::vector<float> patch_deembed(const float* tokens, const float* weight, const float* bias, int64_t D,
                                 int64_t scale, const Shape& shape) {
  const kernels::PatchGrid grid = checked_grid("patch_deembed", "shape", shape, scale);
  check(tokens != nullptr || shape[0] == 0, "patch_deembed: tokens must be an array, got null");
  check(weight != nullptr, "patch_deembed: weight must be an array, got null");
  check(D >= 1, "patch_deembed: D must be at least 1, got ", D);
  const int64_t M = grid.patches(), N = grid.features();
  product("patch_deembed", "weight", {D, N});
  std::vector<float> patches(static_cast<size_t>(product("patch_deembed", "the patches", {M, N})));
  std::vector<float> cells(static_cast<size_t>(product(
      "patch_deembed", "shape", {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6]})));
  if (M == 0) return cells;
  multiply(tokens, weight, bias, M, N, D, patches.data());
  kernels::patch_deembed::scatter_cpu({patches.data(), cells.data(), sizeof(float), grid}, 0, M);
  return cells;
}

std::vector<float> acceleration_quantiles(const std::array<Cells, 4>& latents,
                                          const std::vector<int64_t>& scales, double quantile) {
  namespace kernel = kernels::acceleration_quantiles;
  const char* names[] = {"z0", "z1", "z2", "z3"};
  kernel::Params params;
  for (size_t i = 0; i < latents.size(); ++i) {
    check_view("acceleration_quantiles", names[i], latents[i]);
    check(latents[i].sizes == latents[0].sizes, "acceleration_quantiles: ", names[i],
          " must have the sizes of z0, ", show(latents[0].sizes), ", got ", show(latents[i].sizes));
    params.latents[i] = {latents[i].data, latents[i].strides};
  }
  checked_grid("acceleration_quantiles", "z0", latents[0].sizes, 1);
  const std::string error = kernel::argument_error(scales, quantile);
  check(error.empty(), "acceleration_quantiles: ", error);
  std::vector<float> output(static_cast<size_t>(latents[0].sizes[0]) * scales.size());
  params.sizes = latents[0].sizes;
  params.scales = scales.data();
  params.num_scales = static_cast<int64_t>(scales.size());
  params.quantile = quantile;
  params.output = output.data();
  kernel::acceleration_quantiles_cpu(params, kernel::serial_for);
  return output;
}

}  // namespace ddit::plain

// The three ops on plain float32 arrays, for programs without torch: link ddit_ext::kernels alone. One
// thread, a plain product. Shapes as in ddit_ext.ops; every misfit is a std::invalid_argument that names the
// argument. A scale may exceed the grid: patches have its size all the same, and what memory can't hold is a
// std::bad_alloc.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ddit::plain {

// A view of cells [B, F, h, w, C, p, p]; strides in elements, not negative.
struct Cells {
  using Shape = std::array<int64_t, 7>;

  const float* data = nullptr;
  Shape sizes{};
  Shape strides{};

  static Cells contiguous(const float* data, const Shape& sizes);

  // FLUX's packed tokens [B, h*w, C*p*p] as cells [B, 1, h, w, C, p, p].
  static Cells from_packed(const float* tokens, int64_t B, int64_t h, int64_t w, int64_t C, int64_t p = 2);

  // Latents [B, C, F, H, W] as cells [B, F, H/p, W/p, C, p, p]; H and W multiples of p.
  static Cells from_latents(const float* latents, int64_t B, int64_t C, int64_t F, int64_t H, int64_t W,
                            int64_t p = 2);
};

// weight [D, C, s*p, s*p] with s = scale, bias [D] or null -> tokens [B, F*ceil(h/s)*ceil(w/s), D].
std::vector<float> patch_embed(const Cells& cells, const float* weight, const float* bias, int64_t D,
                               int64_t scale);

// tokens [B, F*ceil(h/s)*ceil(w/s), D], weight [C, s*p, s*p, D], bias [C, s*p, s*p] or null; shape = sizes of
// the cells -> contiguous cells [B, F, h, w, C, p, p].
std::vector<float> patch_deembed(const float* tokens, const float* weight, const float* bias, int64_t D,
                                 int64_t scale, const Cells::Shape& shape);

// latents: z0 (the newest) to z3, of one shape -> [B, scales]: for each sample and scale the `quantile` over
// patches of the standard deviation of z0 - 3 z1 + 3 z2 - z3.
std::vector<float> acceleration_quantiles(const std::array<Cells, 4>& latents,
                                          const std::vector<int64_t>& scales, double quantile);

}  // namespace ddit::plain

// The last four latents of a run and the scores that PatchScheduler::decide takes. Free of torch.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ddit {

class LatentHistory {
 public:
  using Shape = std::array<int64_t, 7>;

  // A copy of the float32 latent that enters step `step`, as a `cells` view: sizes [B, F, h, w, C, p, p] and
  // strides in elements. Without strides, it is contiguous. The same step again is ignored: guidance calls a
  // model twice with one latent. Steps must follow each other for their differences to mean something, so a
  // step that goes back or leaves a gap starts a new run, and other sizes do, too.
  void push(int64_t step, const float* data, const Shape& sizes, const Shape& strides);
  void push(int64_t step, const float* data, const Shape& sizes);

  // Whether four latents are here: from the fourth step of a run on.
  bool ready() const { return count_ == kLatents; }

  // Forgets the latents, for a new run.
  void reset();

  // scores[sample][i]: the `quantile` over patches of scale scales[i] of the standard deviation of the
  // latents' third difference. Any order of scales >= 1. std::logic_error where ready() is false.
  std::vector<std::vector<double>> quantiles(const std::vector<int64_t>& scales, double quantile) const;

 private:
  static constexpr int kLatents = 4;

  std::array<std::vector<float>, kLatents> latents_;  // a ring of contiguous cells
  int newest_ = 0;
  int count_ = 0;
  int64_t last_step_ = -1;
  Shape sizes_{};
};

}  // namespace ddit

// The last four latents of a run and the scores that Policy::decide takes. Free of torch.
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

  // At which scale the step of the newest latent is taken; once it is decided. The difference between that
  // latent and the next one is this step's.
  void took(int64_t scale);

  // Whether the four latents of a third difference are here: from the fourth step of a run on.
  bool ready() const { return count_ == kLatents; }

  // Whether that difference is of steps at one scale, by took(). With SignalOptions::Mixed::kHold scores are
  // given only then. False before ready().
  bool one_scale() const;

  // Forgets the latents, for a new run.
  void reset();

  // scores[sample][i]: the `quantile` over patches of scale scales[i] of the standard deviation of the
  // latents' third difference. Any sequence of scales >= 1. std::logic_error before ready().
  std::vector<std::vector<double>> quantiles(const std::vector<int64_t>& scales, double quantile) const;

 private:
  static constexpr int kLatents = 4;

  int slot(int age) const { return (newest_ - age + kLatents) % kLatents; }

  std::array<std::vector<float>, kLatents> latents_;  // a ring of contiguous cells
  std::array<int64_t, kLatents> taken_{};             // the scale of each latent's step, 0: not told
  int newest_ = 0;
  int count_ = 0;
  int64_t last_step_ = -1;
  Shape sizes_{};
};

}  // namespace ddit

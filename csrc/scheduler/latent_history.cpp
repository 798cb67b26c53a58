#include "ddit_ext/latent_history.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels/acceleration_quantiles/params.h"
#include "kernels/contiguous.h"
#include "scheduler/errors.h"

namespace ddit {
namespace {

namespace kernel = kernels::acceleration_quantiles;
using Shape = LatentHistory::Shape;

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  ddit::check("LatentHistory", condition, parts...);
}

// Copies the axes from `axis` on and returns where the next element goes.
float* copy_cells(const float* from, const Shape& sizes, const Shape& strides, size_t axis, float* to) {
  if (axis == sizes.size()) {
    *to = *from;
    return to + 1;
  }
  for (int64_t i = 0; i < sizes[axis]; ++i)
    to = copy_cells(from + i * strides[axis], sizes, strides, axis + 1, to);
  return to;
}

}  // namespace

void LatentHistory::push(int64_t step, const float* data, const Shape& sizes) {
  push(step, data, sizes, kernels::contiguous_strides(sizes));
}

void LatentHistory::push(int64_t step, const float* data, const Shape& sizes, const Shape& strides) {
  check(step >= 0, "step must be 0 or more, got ", step);
  check(data != nullptr, "data must point to a latent, got null");
  for (size_t i = 0; i < sizes.size(); ++i) {
    check(sizes[i] > 0, "sizes [B, F, h, w, C, p, p] must be positive, got ", show(sizes));
    check(strides[i] >= 0, "strides must be 0 or more, got ", show(strides));
  }
  check(sizes[5] == sizes[6], "sizes must have square patches [B, F, h, w, C, p, p], got ", show(sizes));
  check(kernels::count_floats(sizes).has_value(),
        "sizes must have fewer elements than 64 bits can count, got ", show(sizes));

  const bool same_sizes = sizes == sizes_;
  if (count_ > 0 && same_sizes && step == last_step_) return;
  if (!same_sizes || step != last_step_ + 1) reset();

  const Shape packed = kernels::contiguous_strides(sizes);
  const int slot = (newest_ + 1) % kLatents;
  std::vector<float>& copy = latents_[slot];
  copy.resize(static_cast<size_t>(packed[0] * sizes[0]));
  if (strides == packed) {
    copy.assign(data, data + copy.size());
  } else {
    copy_cells(data, sizes, strides, 0, copy.data());
  }
  newest_ = slot;
  taken_[slot] = 0;
  count_ += count_ < kLatents;
  last_step_ = step;
  sizes_ = sizes;
}

void LatentHistory::reset() {
  count_ = 0;
  last_step_ = -1;
}

void LatentHistory::took(int64_t scale) {
  check(count_ > 0, "push must come before took");
  check(scale >= 1, "scale must be at least 1, got ", scale);
  taken_[newest_] = scale;
}

bool LatentHistory::one_scale() const {
  if (!ready()) return false;
  const int64_t first = taken_[slot(1)];
  bool one = first > 0;
  for (int age = 2; age < kLatents; ++age) one = one && taken_[slot(age)] == first;
  return one;
}

std::vector<std::vector<double>> LatentHistory::quantiles(const std::vector<int64_t>& scales,
                                                          double quantile) const {
  if (!ready())
    throw std::logic_error("LatentHistory: quantiles needs the latents of four steps, got " +
                           std::to_string(count_));
  const std::string error = kernel::argument_error(scales, quantile);
  check(error.empty(), error);

  std::vector<float> output(static_cast<size_t>(sizes_[0]) * scales.size());
  kernel::Params params;
  const Shape strides = kernels::contiguous_strides(sizes_);
  for (int age = 0; age < kLatents; ++age) params.latents[age] = {latents_[slot(age)].data(), strides};
  params.sizes = sizes_;
  params.dtype = kernel::DType::kFloat32;
  params.scales = scales.data();
  params.num_scales = static_cast<int64_t>(scales.size());
  params.quantile = quantile;
  params.output = output.data();
  kernel::acceleration_quantiles_cpu(params, kernel::serial_for);

  std::vector<std::vector<double>> scores;
  for (auto sample = output.begin(); sample != output.end();
       sample += static_cast<std::ptrdiff_t>(scales.size())) {
    scores.emplace_back(sample, sample + static_cast<std::ptrdiff_t>(scales.size()));
  }
  return scores;
}

}  // namespace ddit

// What patch_embed gathers, as its kernels want it: the same for every device.
#pragma once

#include <algorithm>

#include "kernels/patch_embed/params.h"
#include "ops/tensors.h"

namespace ddit::ops {

// patch_embed's input_scale [B or 1, C or 1], if any: what the kernels read of it lives as long as this.
class InputScale {
 public:
  explicit InputScale(const std::optional<Tensor>& given) {
    if (given) scale_ = given->is_contiguous() ? *given : torch::stable::contiguous(*given);
  }

  explicit operator bool() const { return scale_.has_value(); }

  kernels::patch_embed::Factors factors() const {
    if (!scale_) return {};
    const int64_t samples = scale_->size(0), channels = scale_->size(1);
    return {static_cast<const float*>(scale_->const_data_ptr()), samples == 1 ? 0 : channels,
            channels == 1 ? 0 : 1};
  }

 private:
  std::optional<Tensor> scale_;
};

// FLUX's packed tokens at scale 1 are a matrix of patches already.
inline bool holds_patches(const Tensor& cells, const kernels::PatchGrid& grid, const InputScale& scale) {
  return grid.scale == 1 && cells.is_contiguous() && !scale;
}

// patches: [grid.patches(), grid.features()], contiguous
inline kernels::patch_embed::Params gather_params(const Tensor& cells, const Tensor& patches,
                                                  const kernels::PatchGrid& grid, const InputScale& scale) {
  kernels::patch_embed::Params params{
      cells.const_data_ptr(), {},   kernel_dtype(cells), patches.mutable_data_ptr(),
      kernel_dtype(patches),  grid, scale.factors()};
  const auto strides = cells.strides();
  std::copy(strides.begin(), strides.end(), params.strides.begin());
  return params;
}

}  // namespace ddit::ops

// The arguments of acceleration_quantiles, checked, as its kernels want them: the same for every device.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/acceleration_quantiles/params.h"
#include "ops/checks.h"

namespace ddit::ops {

// Throws where an argument is not meant. `scales` must outlive the result, whose output is not set yet.
kernels::acceleration_quantiles::Params acceleration_quantiles_params(
    const std::array<const Tensor*, kernels::acceleration_quantiles::kLatents>& latents,
    const std::vector<int64_t>& scales, double quantile);

}  // namespace ddit::ops

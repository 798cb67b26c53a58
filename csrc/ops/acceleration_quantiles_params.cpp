#include "ops/acceleration_quantiles_params.h"

#include <string>

#include "ops/tensors.h"

namespace ddit::ops {
namespace {

namespace kernel = kernels::acceleration_quantiles;

constexpr const char* kOp = "acceleration_quantiles";
constexpr const char* kNames[kernel::kLatents] = {"z0", "z1", "z2", "z3"};
constexpr const char* kLayout = "[B, F, h, w, C, p, p]";

void check_arguments(const std::array<const Tensor*, kernel::kLatents>& latents,
                     const std::vector<int64_t>& scales, double quantile) {
  const Tensor& z0 = *latents[0];
  check_dim(kOp, "z0", z0, kernel::kCellsDims, kLayout);
  check(z0.size(5) == z0.size(6), kOp, ": z0 must have square patches ", kLayout, ", got ", show_shape(z0));
  for (int64_t i = 1; i < kernel::kCellsDims; ++i) {
    check(z0.size(i) > 0, kOp, ": z0 must not be empty but for its batch, ", kLayout, ", got ",
          show_shape(z0));
  }
  check_floating(kOp, "z0", z0);
  for (int k = 1; k < kernel::kLatents; ++k) {
    check_shape(kOp, kNames[k], *latents[k], z0.sizes(), "of z0");
    check_same_kind(kOp, kNames[k], *latents[k], "z0", z0);
  }
  const std::string error = kernel::argument_error(scales, quantile);
  check(error.empty(), kOp, ": ", error);
}

}  // namespace

kernel::Params acceleration_quantiles_params(const std::array<const Tensor*, kernel::kLatents>& latents,
                                             const std::vector<int64_t>& scales, double quantile) {
  check_arguments(latents, scales, quantile);
  const Tensor& z0 = *latents[0];
  kernel::Params params;
  for (int k = 0; k < kernel::kLatents; ++k) {
    params.latents[k].data = latents[k]->const_data_ptr();
    for (int i = 0; i < kernel::kCellsDims; ++i) params.latents[k].strides[i] = latents[k]->stride(i);
  }
  for (int i = 0; i < kernel::kCellsDims; ++i) params.sizes[i] = z0.size(i);
  params.dtype = kernel_dtype(z0);
  params.scales = scales.data();
  params.num_scales = static_cast<int64_t>(scales.size());
  params.quantile = quantile;
  return params;
}

}  // namespace ddit::ops

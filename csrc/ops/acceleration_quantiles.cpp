#include <torch/csrc/stable/ops.h>

#include "kernels/acceleration_quantiles/params.h"
#include "ops/acceleration_quantiles_params.h"
#include "ops/ops.h"
#include "ops/tensors.h"

namespace ddit::ops {

namespace kernel = kernels::acceleration_quantiles;

Tensor acceleration_quantiles_cpu(const Tensor& z0, const Tensor& z1, const Tensor& z2, const Tensor& z3,
                                  const std::vector<int64_t>& scales, double quantile) {
  kernel::Params params = acceleration_quantiles_params({&z0, &z1, &z2, &z3}, scales, quantile);
  Tensor output = empty<2>(z0, {z0.size(0), params.num_scales}, aoti_torch_dtype_float32());
  params.output = static_cast<float*>(output.mutable_data_ptr());
  kernel::acceleration_quantiles_cpu(
      params, [](int64_t begin, int64_t end, int64_t grain, const kernel::RangeBody& body) {
        torch::stable::parallel_for(begin, end, grain, body);
      });
  return output;
}

}  // namespace ddit::ops

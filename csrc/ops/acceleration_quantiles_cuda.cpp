#include "kernels/acceleration_quantiles/cuda.h"
#include "ops/acceleration_quantiles_params.h"
#include "ops/cuda_call.h"
#include "ops/ops.h"
#include "ops/tensors.h"

namespace ddit::ops {

namespace kernel = kernels::acceleration_quantiles;

Tensor acceleration_quantiles_cuda(const Tensor& z0, const Tensor& z1, const Tensor& z2, const Tensor& z3,
                                   const std::vector<int64_t>& scales, double quantile) {
  constexpr const char* kOp = "acceleration_quantiles";
  kernel::Params params = acceleration_quantiles_params({&z0, &z1, &z2, &z3}, scales, quantile);
  check(params.dtype != kernel::DType::kFloat64, kOp,
        ": z0 must be float32, bfloat16 or float16 on a CUDA device, got float64");
  const std::string error = kernel::cuda_size_error(params);
  check(error.empty(), kOp, ": ", error);

  const CudaCall call(kOp, z0);
  Tensor output = empty<2>(z0, {z0.size(0), params.num_scales}, aoti_torch_dtype_float32());
  // The allocator hands memory out in the order of the stream: it may be freed before the kernel has run.
  Tensor workspace = empty<1>(z0, {kernel::cuda_workspace_bytes(params)}, aoti_torch_dtype_uint8());
  params.output = static_cast<float*>(output.mutable_data_ptr());
  call.check(kernel::acceleration_quantiles_cuda(params, workspace.mutable_data_ptr(), call.stream()));
  return output;
}

}  // namespace ddit::ops

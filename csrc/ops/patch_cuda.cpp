#include "ops/patch_cuda.h"

#include <algorithm>

#include "kernels/patch_units.h"
#include "ops/checks.h"
#include "ops/tensors.h"

namespace ddit::ops {

void check_patches_cuda(const char* op, const Tensor& like, const kernels::PatchGrid& grid, int64_t width) {
  const ScalarType dtype = like.scalar_type();
  check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op,
        ": on CUDA the dtype must be float32, bfloat16 or float16, got ", dtype_name(dtype));
  const int64_t most = std::max({grid.patches(), grid.features(), width, grid.rows, grid.cols});
  check(most <= kernels::kMostOnGpu, op, ": on CUDA patches, features, rows and columns must be at most ",
        kernels::kMostOnGpu, ", got ", most);
}

Tensor linear_cuda(const CudaCall& call, const Tensor& x, const Tensor& weight_t,
                   const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                   const std::optional<Tensor>& lora_b, double lora_scale) {
  const int64_t M = x.size(0), N = weight_t.size(1), K = x.size(1);
  Tensor merged_t = weight_t;
  // A merged weight is one small product more. Low-rank products beside the weight's are two, and a second
  // pass over the result.
  if (lora_a && lora_a->size(0) > 0) {
    const Tensor merged = empty<2>(weight_t, {N, K});
    call.addmm_out(merged, transposed(weight_t), *lora_b, *lora_a, 1.0, lora_scale);
    merged_t = transposed(merged);
  }
  Tensor out = empty<2>(x, {M, N});
  call.addmm_out(out, bias ? *bias : out, x, merged_t, bias ? 1.0 : 0.0, 1.0);
  return out;
}

}  // namespace ddit::ops

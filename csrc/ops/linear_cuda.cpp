#include "ops/linear_cuda.h"

#include <torch/csrc/stable/ops.h>

#include "ops/checks.h"
#include "ops/cuda_call.h"

namespace ddit::ops {
namespace {

namespace kernel = kernels::patch_linear;

kernel::DType kernel_dtype(const char* op, const Tensor& like) {
  switch (like.scalar_type()) {
    case ScalarType::Float:
      return kernel::DType::kFloat32;
    case ScalarType::BFloat16:
      return kernel::DType::kBFloat16;
    case ScalarType::Half:
      return kernel::DType::kFloat16;
    default:
      check(false, op, ": on CUDA the dtype must be float32, bfloat16 or float16, got ",
            dtype_name(like.scalar_type()));
      return kernel::DType::kFloat32;
  }
}

// Most weights are contiguous and stay where they are, without a look-up of the operator.
std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor || tensor->is_contiguous()) return tensor;
  return torch::stable::contiguous(*tensor);
}

const void* data_of(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

}  // namespace

void linear_cuda(const char* op, const Tensor& like, const kernel::PatchMatrix& in,
                 const kernel::PatchMatrix& out, const Tensor& weight, const std::optional<Tensor>& bias,
                 const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                 double lora_scale) {
  const kernel::DType dtype = kernel_dtype(op, like);
  const int64_t rank = lora_a ? lora_a->size(0) : 0;
  kernel::Params params{in,   out, nullptr, nullptr, nullptr, nullptr, rank, static_cast<float>(lora_scale),
                        dtype};
  check(kernel::largest_size(params) <= kernel::kLargestSize, op,
        ": on CUDA patches, features, rank, rows and columns must be at most ", kernel::kLargestSize,
        ", got ", kernel::largest_size(params));

  const CudaCall call(op, like);
  const std::optional<Tensor> w = contiguous(weight), b = contiguous(bias);
  const std::optional<Tensor> low_a = contiguous(lora_a), low_b = contiguous(lora_b);
  params.weight = data_of(w);
  params.bias = data_of(b);
  params.lora_a = data_of(low_a);
  params.lora_b = data_of(low_b);
  call.check(kernel::patch_linear_cuda(params, call.stream()));
}

}  // namespace ddit::ops

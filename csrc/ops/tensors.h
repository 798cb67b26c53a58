// Tensors made straight by libtorch's C functions. torch::stable's view, reshape and new_empty look an
// operator up by name at each call, which takes longer than all of a small op.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstdint>

#include "kernels/contiguous.h"
#include "kernels/dtype.h"
#include "ops/checks.h"

namespace ddit::ops {

// check_floating has let nothing else through.
inline kernels::DType kernel_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return kernels::DType::kFloat64;
    case ScalarType::BFloat16:
      return kernels::DType::kBFloat16;
    case ScalarType::Half:
      return kernels::DType::kFloat16;
    default:
      return kernels::DType::kFloat32;
  }
}

// Contiguous, on the device of `like` and, without `dtype`, of its type.
template <size_t axes>
Tensor empty(const Tensor& like, const std::array<int64_t, axes>& sizes,
             std::optional<int32_t> dtype = std::nullopt) {
  const Kind kind(like);
  const std::array<int64_t, axes> strides = kernels::contiguous_strides(sizes);
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(axes, sizes.data(), strides.data(),
                                                  dtype.value_or(kind.dtype), kind.device_type,
                                                  kind.device_index, &made));
  return Tensor(made);
}

// The same memory as other axes. The caller knows that it holds them.
template <size_t axes>
Tensor reinterpret(const Tensor& tensor, const std::array<int64_t, axes>& sizes,
                   const std::array<int64_t, axes>& strides) {
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(tensor.get(), axes, sizes.data(), strides.data(), 0, &made));
  return Tensor(made);
}

// The same elements in another shape: a view where the tensor is contiguous, a copy elsewhere.
template <size_t axes>
Tensor reshape(const Tensor& tensor, const std::array<int64_t, axes>& sizes) {
  if (tensor.is_contiguous()) return reinterpret(tensor, sizes, kernels::contiguous_strides(sizes));
  return torch::stable::reshape(tensor, {sizes.data(), axes});
}

// [m, n] -> [n, m], a view
inline Tensor transposed(const Tensor& matrix) {
  return reinterpret<2>(matrix, {matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}

// m * n elements -> [n, m]: what transposed(reshape) gives, in one step.
inline Tensor reshape_transposed(const Tensor& tensor, int64_t m, int64_t n) {
  if (tensor.is_contiguous()) return reinterpret<2>(tensor, {n, m}, {1, n});
  return transposed(reshape<2>(tensor, {m, n}));
}

}  // namespace ddit::ops

#include "ops/small_linear.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace ddit::ops {
namespace {

using torch::headeronly::ScalarType;

// In steps, none of which can overflow.
bool is_small(int64_t M, int64_t N, int64_t K, int64_t r) {
  for (int64_t size : {M, N, K, r})
    if (size > kSmallLinear) return false;
  for (int64_t product : {M * N, M * K, M * N * K})
    if (product > kSmallLinear) return false;
  return M * N * K + r * M * (K + N) <= kSmallLinear;
}

const void* data_of(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

template <class Sum, class A, class B>
Sum dot(const A* a, const B* b, int64_t count) {
  Sum sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]);
  return sum;
}

}  // namespace

std::optional<SmallLinear> SmallLinear::of(int64_t M, int64_t N, int64_t K, const Tensor& weight,
                                           const std::optional<Tensor>& bias,
                                           const std::optional<Tensor>& lora_a,
                                           const std::optional<Tensor>& lora_b, double lora_scale) {
  const int64_t r = lora_a ? lora_a->size(0) : 0;
  if (!is_small(M, N, K, r) || !weight.is_contiguous()) return std::nullopt;
  for (const std::optional<Tensor>* tensor : {&bias, &lora_a, &lora_b})
    if (*tensor && !(*tensor)->is_contiguous()) return std::nullopt;
  SmallLinear small;
  small.M_ = M;
  small.N_ = N;
  small.K_ = K;
  small.r_ = r;
  small.weight_ = weight.const_data_ptr();
  small.bias_ = data_of(bias);
  small.lora_a_ = data_of(lora_a);
  small.lora_b_ = data_of(lora_b);
  small.lora_scale_ = lora_scale;
  small.dtype_ = weight.scalar_type();
  return small;
}

template <class T>
void SmallLinear::run_as(const T* x, T* result) const {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const T *weight = static_cast<const T*>(weight_), *bias = static_cast<const T*>(bias_);
  const T *a = static_cast<const T*>(lora_a_), *b = static_cast<const T*>(lora_b_);
  std::array<Sum, kSmallLinear> low;
  for (int64_t m = 0; m < M_; ++m, x += K_) {
    for (int64_t j = 0; j < r_; ++j) low[j] = dot<Sum>(x, a + j * K_, K_);
    for (int64_t n = 0; n < N_; ++n) {
      Sum sum = dot<Sum>(x, weight + n * K_, K_);
      if (bias) sum += static_cast<Sum>(bias[n]);
      if (r_ > 0) sum += static_cast<Sum>(lora_scale_) * dot<Sum>(low.data(), b + n * r_, r_);
      *result++ = static_cast<T>(sum);
    }
  }
}

void SmallLinear::run(const void* x, void* result) const {
  const auto as = [&](auto type) {
    using T = decltype(type);
    run_as(static_cast<const T*>(x), static_cast<T*>(result));
  };
  switch (dtype_) {
    case ScalarType::Double:
      return as(double{});
    case ScalarType::BFloat16:
      return as(torch::headeronly::BFloat16{});
    case ScalarType::Half:
      return as(torch::headeronly::Half{});
    default:  // the checks have let nothing else through
      return as(float{});
  }
}

}  // namespace ddit::ops

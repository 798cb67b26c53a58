// Products of so few numbers that a call into the library takes longer than their arithmetic.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace ddit::ops {

using torch::stable::Tensor;

constexpr int64_t kSmallLinear = 512;  // multiply-adds: about what the library's call alone costs

// Room for x or the result of a small product, of any type.
struct SmallMatrix {
  alignas(8) std::array<std::byte, kSmallLinear * 8> bytes;
};

// The product of linear_cpu, but over memory: x [M, K], weight [N, K], bias [N], lora_a [r, K], lora_b [N,
// r], result [M, N], all contiguous and of one type.
class SmallLinear {
 public:
  // Nothing where the product is not small, or a weight is not contiguous.
  static std::optional<SmallLinear> of(int64_t M, int64_t N, int64_t K, const Tensor& weight,
                                       const std::optional<Tensor>& bias, const std::optional<Tensor>& lora_a,
                                       const std::optional<Tensor>& lora_b, double lora_scale);

  void run(const void* x, void* result) const;

 private:
  template <class T>
  void run_as(const T* x, T* result) const;

  int64_t M_, N_, K_, r_;
  const void *weight_, *bias_, *lora_a_, *lora_b_;
  double lora_scale_;
  torch::headeronly::ScalarType dtype_;
};

}  // namespace ddit::ops

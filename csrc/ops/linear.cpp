#include "ops/linear.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "ops/tensors.h"

namespace ddit::ops {
namespace {

// out = beta * self + alpha * a b. The dispatcher's own addmm takes Scalars, which the stable ABI can't pass.
// beta = 0 ignores self, also NaN in it.
void addmm_out(const Tensor& out, const Tensor& self, const Tensor& a, const Tensor& b, double beta,
               double alpha) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), self.get(), a.get(), b.get(), beta, alpha));
}

// A merged weight costs one product of weight size and a pass over it, a low-rank path two thin products and
// a second pass over the output. kPass: what a pass costs in multiply-adds an element, measured.
bool merging_is_cheaper(int64_t M, int64_t N, int64_t K, int64_t r) {
  constexpr int64_t kPass = 32;
  return (r + kPass) * N * K < r * M * (K + N) + kPass * M * N;
}

}  // namespace

Tensor linear_cpu(const Tensor& x, const Tensor& weight_t, const std::optional<Tensor>& bias,
                  const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                  double lora_scale) {
  const int64_t M = x.size(0), N = weight_t.size(1), K = x.size(1);
  const int64_t r = lora_a ? lora_a->size(0) : 0;
  const bool merge = r > 0 && merging_is_cheaper(M, N, K, r);

  Tensor merged_t = weight_t;
  if (merge) {
    const Tensor merged = empty<2>(weight_t, {N, K});
    addmm_out(merged, transposed(weight_t), *lora_b, *lora_a, 1.0, lora_scale);
    merged_t = transposed(merged);
  }
  Tensor out = empty<2>(x, {M, N});
  addmm_out(out, bias ? *bias : out, x, merged_t, bias ? 1.0 : 0.0, 1.0);
  if (r > 0 && !merge) {
    Tensor low = empty<2>(x, {M, r});
    addmm_out(low, low, x, transposed(*lora_a), 0.0, 1.0);
    addmm_out(out, out, low, transposed(*lora_b), 1.0, lora_scale);
  }
  return out;
}

}  // namespace ddit::ops

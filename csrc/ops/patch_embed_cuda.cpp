#include "ops/linear_cuda.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {

Tensor patch_embed_cuda(const Tensor& cells, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                        double lora_scale, int64_t scale) {
  namespace kernel = kernels::patch_linear;
  const kernels::PatchGrid grid = check_patch_embed(cells, weight, bias, lora_a, lora_b, scale);
  const int64_t D = weight.size(0), tokens = grid.frames * grid.patch_rows() * grid.patch_cols();
  Tensor out = empty<3>(cells, {grid.batch, tokens, D});

  // The kernel takes matrices that it reads and matrices that it writes alike.
  kernel::PatchMatrix patches{const_cast<void*>(cells.const_data_ptr()), {}, grid};
  for (int64_t i = 0; i < 7; ++i) patches.strides[i] = cells.stride(i);
  linear_cuda("patch_embed", cells, patches,
              kernel::plain_matrix(out.mutable_data_ptr(), grid.batch, tokens, D, {tokens * D, D, 1}), weight,
              bias, lora_a, lora_b, lora_scale);
  return out;
}

}  // namespace ddit::ops

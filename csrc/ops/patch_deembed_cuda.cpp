#include "ops/linear_cuda.h"
#include "ops/ops.h"
#include "ops/patch_checks.h"
#include "ops/tensors.h"

namespace ddit::ops {

Tensor patch_deembed_cuda(const Tensor& tokens, const Tensor& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& lora_a, const std::optional<Tensor>& lora_b,
                          double lora_scale, int64_t scale, const std::vector<int64_t>& grid_sizes) {
  namespace kernel = kernels::patch_linear;
  const kernels::PatchGrid grid =
      check_patch_deembed(tokens, weight, bias, lora_a, lora_b, scale, grid_sizes);
  const int64_t p = grid.p;
  Tensor cells = empty<7>(tokens, {grid.batch, grid.frames, grid.rows, grid.cols, grid.channels, p, p});

  kernel::PatchMatrix patches{cells.mutable_data_ptr(), {}, grid};
  for (int64_t i = 0; i < 7; ++i) patches.strides[i] = cells.stride(i);
  // The kernel takes matrices that it reads and matrices that it writes alike.
  linear_cuda("patch_deembed", tokens,
              kernel::plain_matrix(const_cast<void*>(tokens.const_data_ptr()), tokens.size(0), tokens.size(1),
                                   tokens.size(2), {tokens.stride(0), tokens.stride(1), tokens.stride(2)}),
              patches, weight, bias, lora_a, lora_b, lora_scale);
  return cells;
}

}  // namespace ddit::ops

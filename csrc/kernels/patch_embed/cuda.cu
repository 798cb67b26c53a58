#include "kernels/patch_embed/cuda.h"
#include "kernels/patch_embed/scaled.cuh"
#include "kernels/patch_moves.cuh"

namespace ddit::kernels::patch_embed {

int gather_cuda(const Params& params, void* stream) {
  if (params.factors.data != nullptr) return patch_moves::scale(params, stream);
  // Gathering reads the cells and nothing else; the kernel moves in both directions.
  return patch_moves::move<true>(const_cast<void*>(params.cells), params.strides, params.patches,
                                 size_of(params.from), params.grid, stream);
}

}  // namespace ddit::kernels::patch_embed

#include "kernels/patch_embed/cuda.h"
#include "kernels/patch_moves.cuh"

namespace ddit::kernels::patch_embed {

int gather_cuda(const Params& params, void* stream) {
  // Gathering reads the cells and nothing else; the kernel moves in both directions.
  return patch_moves::move<true>(const_cast<void*>(params.cells), params.strides, params.patches,
                                 params.element_size, params.grid, stream);
}

}  // namespace ddit::kernels::patch_embed

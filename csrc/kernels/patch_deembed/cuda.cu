#include "kernels/contiguous.h"
#include "kernels/patch_deembed/cuda.h"
#include "kernels/patch_moves.cuh"

namespace ddit::kernels::patch_deembed {

int scatter_cuda(const Params& params, void* stream) {
  const PatchGrid& grid = params.grid;
  const std::array<int64_t, 7> strides =
      contiguous_strides<7>({grid.batch, grid.frames, grid.rows, grid.cols, grid.channels, grid.p, grid.p});
  // Scattering reads the patches and nothing else; the kernel moves in both directions.
  return patch_moves::move<false>(params.cells, strides, const_cast<void*>(params.patches),
                                  params.element_size, grid, stream);
}

}  // namespace ddit::kernels::patch_deembed

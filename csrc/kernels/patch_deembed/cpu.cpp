#include <cstring>

#include "kernels/patch_deembed/params.h"

namespace ddit::kernels::patch_deembed {
namespace {

// Both sides hold a cell's p pixels of one row as neighbours: kRun is their size in bytes, 0 when only known
// at run time.
template <size_t kRun>
void scatter(const Params& params, int64_t first_patch, int64_t last_patch) {
  const PatchGrid& grid = params.grid;
  const size_t run = kRun ? kRun : static_cast<size_t>(grid.p * params.element_size);
  const int64_t cell_bytes = grid.channels * grid.p * run;
  for (int64_t index = first_patch; index < last_patch; ++index) {
    const PatchPosition at(grid, index);
    const char* patch =
        static_cast<const char*>(params.patches) + index * grid.features() * params.element_size;
    for (int64_t i = 0; i < at.rows_inside; ++i) {
      const int64_t row = (at.sample * grid.frames + at.frame) * grid.rows + at.row + i;
      char* to = static_cast<char*>(params.cells) + (row * grid.cols + at.col) * cell_bytes;
      for (int64_t j = 0; j < at.cols_inside; ++j) {
        for (int64_t c = 0; c < grid.channels; ++c) {
          const int64_t pixel_row = c * grid.side() + i * grid.p;
          for (int64_t y = 0; y < grid.p; ++y, to += run) {
            std::memcpy(to, patch + ((pixel_row + y) * grid.scale + j) * run, kRun ? kRun : run);
          }
        }
      }
    }
  }
}

}  // namespace

void scatter_cpu(const Params& params, int64_t first_patch, int64_t last_patch) {
  switch (params.grid.p * params.element_size) {
    case 4:
      return scatter<4>(params, first_patch, last_patch);
    case 8:
      return scatter<8>(params, first_patch, last_patch);
    case 16:
      return scatter<16>(params, first_patch, last_patch);
    default:
      return scatter<0>(params, first_patch, last_patch);
  }
}

}  // namespace ddit::kernels::patch_deembed

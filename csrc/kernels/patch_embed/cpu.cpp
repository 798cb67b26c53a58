#include <algorithm>
#include <cstring>

#include "kernels/patch_embed/params.h"

namespace ddit::kernels::patch_embed {
namespace {

// memcpy of a constant size is one load and one store, whatever the alignment.
template <int64_t kBytes>
void copy_units(const std::vector<int64_t>& offsets, const char* from, char* to) {
  for (int64_t offset : offsets) {
    std::memcpy(to, from + offset, kBytes);
    to += kBytes;
  }
}

void copy_units(int64_t bytes, const std::vector<int64_t>& offsets, const char* from, char* to) {
  switch (bytes) {
    case 2:
      return copy_units<2>(offsets, from, to);
    case 4:
      return copy_units<4>(offsets, from, to);
    case 8:
      return copy_units<8>(offsets, from, to);
    case 16:
      return copy_units<16>(offsets, from, to);
  }
}

bool is_copied_at_once(int64_t bytes) { return bytes == 4 || bytes == 8 || bytes == 16; }

}  // namespace

Gather::Gather(const Params& params) : params_(params) {
  const PatchGrid& grid = params_.grid;
  const int64_t last_rows = grid.rows - (grid.patch_rows() - 1) * grid.scale;
  const int64_t last_cols = grid.cols - (grid.patch_cols() - 1) * grid.scale;
  whole_ = units(grid.scale, grid.scale);
  if (last_rows < grid.scale) bottom_ = units(last_rows, grid.scale);
  if (last_cols < grid.scale) right_ = units(grid.scale, last_cols);
  if (last_rows < grid.scale && last_cols < grid.scale) corner_ = units(last_rows, last_cols);
}

Gather::Units Gather::units(int64_t rows_inside, int64_t cols_inside) const {
  const PatchGrid& grid = params_.grid;
  const auto& stride = params_.strides;
  // A repeated last column is no run of neighbours, so it is copied element by element.
  const int64_t run_bytes = grid.p * params_.element_size;
  const bool in_runs = cols_inside == grid.scale && stride[6] == 1 && is_copied_at_once(run_bytes);
  const int64_t step = in_runs ? grid.p : 1;

  Units result;
  result.bytes = step * params_.element_size;
  result.offsets.reserve(grid.features() / step);
  for (int64_t c = 0; c < grid.channels; ++c) {
    for (int64_t y = 0; y < grid.side(); ++y) {
      const int64_t pixel_row = std::min(y, rows_inside * grid.p - 1);
      for (int64_t x = 0; x < grid.side(); x += step) {
        const int64_t pixel_col = std::min(x, cols_inside * grid.p - 1);
        const int64_t elements = pixel_row / grid.p * stride[2] + pixel_col / grid.p * stride[3] +
                                 c * stride[4] + pixel_row % grid.p * stride[5] +
                                 pixel_col % grid.p * stride[6];
        result.offsets.push_back(elements * params_.element_size);
      }
    }
  }
  return result;
}

void Gather::run(int64_t first_patch, int64_t last_patch) const {
  const PatchGrid& grid = params_.grid;
  const auto& stride = params_.strides;
  const int64_t row_bytes = grid.features() * params_.element_size;
  for (int64_t index = first_patch; index < last_patch; ++index) {
    const PatchPosition at(grid, index);
    const bool low = at.rows_inside < grid.scale;
    const bool narrow = at.cols_inside < grid.scale;
    const Units& units = low ? (narrow ? corner_ : bottom_) : (narrow ? right_ : whole_);
    const int64_t origin =
        at.sample * stride[0] + at.frame * stride[1] + at.row * stride[2] + at.col * stride[3];
    copy_units(units.bytes, units.offsets,
               static_cast<const char*>(params_.cells) + origin * params_.element_size,
               static_cast<char*>(params_.patches) + index * row_bytes);
  }
}

}  // namespace ddit::kernels::patch_embed

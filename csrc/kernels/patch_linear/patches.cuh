// Where the numbers of a PatchMatrix lie: the place of a row (a patch) and of a column (a feature).
#pragma once

#include "kernels/patch_linear/fast_div.cuh"
#include "kernels/patch_linear/params.h"

namespace ddit::kernels::patch_linear {

// A PatchMatrix as the kernel takes it.
struct Patches {
  char* data;
  int64_t sample_stride, frame_stride, row_stride, col_stride;  // in bytes; row and col: of cells
  int64_t channel_stride, y_stride, x_stride;                   // of pixels inside a cell
  FastDiv frames, patch_rows, patch_cols;
  FastDiv side, p;
  uint32_t scale, rows, cols;  // of cells
};

inline Patches device_patches(const PatchMatrix& matrix, int64_t element_size) {
  const PatchGrid& grid = matrix.grid;
  const auto bytes = [&](int dim) { return matrix.strides[dim] * element_size; };
  return {static_cast<char*>(matrix.data),
          bytes(0),
          bytes(1),
          bytes(2),
          bytes(3),
          bytes(4),
          bytes(5),
          bytes(6),
          FastDiv(grid.frames),
          FastDiv(grid.patch_rows()),
          FastDiv(grid.patch_cols()),
          FastDiv(grid.side()),
          FastDiv(grid.p),
          static_cast<uint32_t>(grid.scale),
          static_cast<uint32_t>(grid.rows),
          static_cast<uint32_t>(grid.cols)};
}

struct alignas(16) PatchPlace {
  int64_t origin;          // of the patch's first pixel, in bytes
  int32_t last_y, last_x;  // the last of its pixel rows and columns that exist; kUncut where all do
};
constexpr int32_t kUncut = (int64_t{1} << 31) - 1;

__device__ __forceinline__ PatchPlace place_of_patch(const Patches& patches, uint32_t index) {
  const uint32_t col = patches.patch_cols.split(index) * patches.scale;
  const uint32_t row = patches.patch_rows.split(index) * patches.scale;
  const uint32_t frame = patches.frames.split(index);
  const uint32_t sample = index;
  const uint32_t rows_inside = patches.rows - row, cols_inside = patches.cols - col;
  const int32_t p = static_cast<int32_t>(patches.p.divisor);
  return {sample * patches.sample_stride + frame * patches.frame_stride + row * patches.row_stride +
              col * patches.col_stride,
          rows_inside < patches.scale ? static_cast<int32_t>(rows_inside) * p - 1 : kUncut,
          cols_inside < patches.scale ? static_cast<int32_t>(cols_inside) * p - 1 : kUncut};
}

struct PatchFeature {
  uint32_t channel;
  int32_t y, x;  // of the pixel inside the patch
};

__device__ __forceinline__ PatchFeature feature_of_column(const Patches& patches, uint32_t column) {
  const int32_t x = static_cast<int32_t>(patches.side.split(column));
  const int32_t y = static_cast<int32_t>(patches.side.split(column));
  return {column, y, x};
}

// From the patch's first pixel, in bytes.
__device__ __forceinline__ int64_t offset_of_feature(const Patches& patches, const PatchFeature& feature) {
  uint32_t row = feature.y, col = feature.x;
  const uint32_t y = patches.p.split(row), x = patches.p.split(col);
  return feature.channel * patches.channel_stride + row * patches.row_stride + col * patches.col_stride +
         y * patches.y_stride + x * patches.x_stride;
}

}  // namespace ddit::kernels::patch_linear

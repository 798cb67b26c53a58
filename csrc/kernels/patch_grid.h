// How base cells are merged into patches; shared by patch_embed and patch_deembed.
//
// A latent is `cells` [B, F, h, w, C, p, p]. A patch of `scale` s merges s x s cells into C x (s*p) x (s*p)
// pixels; the last row and column of patches may hang over the grid.
#pragma once

#include <cstdint>

namespace ddit::kernels {

struct PatchGrid {
  int64_t batch, frames, rows, cols;  // of cells
  int64_t channels, p;                // of one cell
  int64_t scale;

  int64_t patch_rows() const { return (rows + scale - 1) / scale; }
  int64_t patch_cols() const { return (cols + scale - 1) / scale; }
  int64_t patches() const { return batch * frames * patch_rows() * patch_cols(); }
  int64_t side() const { return scale * p; }
  int64_t features() const { return channels * side() * side(); }
};

// Where patch `index` (frame-major, then row-major) lies.
struct PatchPosition {
  int64_t sample, frame, row, col;   // row and col: of its first cell
  int64_t rows_inside, cols_inside;  // how many of its s x s cells exist

  PatchPosition(const PatchGrid& grid, int64_t index) {
    col = index % grid.patch_cols() * grid.scale;
    index /= grid.patch_cols();
    row = index % grid.patch_rows() * grid.scale;
    index /= grid.patch_rows();
    frame = index % grid.frames;
    sample = index / grid.frames;
    rows_inside = grid.rows - row < grid.scale ? grid.rows - row : grid.scale;
    cols_inside = grid.cols - col < grid.scale ? grid.cols - col : grid.scale;
  }
};

// How many patches are worth a thread: about 64 KiB of pixels and up, below that waking it costs more.
inline int64_t patches_per_thread(const PatchGrid& grid) { return 1 + 32768 / grid.features(); }

}  // namespace ddit::kernels

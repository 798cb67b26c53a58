// How many bytes of the pixels of patches can be moved at once.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/patch_grid.h"

namespace ddit::kernels {

// The largest of 16, 8, 4 and 2 bytes (at least an element) that can be moved at once everywhere: such a unit
// of a patch's features [C, s*p, s*p] lies together in memory and aligned, and a ragged edge never cuts it.
// `strides` are those of the cells [B, F, h, w, C, p, p], in elements; patches lie aligned to 16 bytes.
// by_channel: no unit is of two channels.
inline int unit_bytes(const void* cells, const std::array<int64_t, 7>& strides, int64_t element_size,
                      const PatchGrid& grid, bool by_channel = false) {
  struct Dim {
    int64_t size, stride;
  };
  const Dim inside[] = {{grid.p, strides[6]},
                        {grid.scale, strides[3]},
                        {grid.p, strides[5]},
                        {grid.scale, strides[2]},
                        {grid.channels, strides[4]}};
  const int uncut = grid.cols % grid.scale != 0 ? 1 : grid.rows % grid.scale != 0 ? 2 : 5;
  const int whole = std::min(uncut, by_channel ? 4 : 5);
  int64_t run = 1;  // how many features are neighbours
  int joined = 0;
  while (joined < whole && (inside[joined].size == 1 || inside[joined].stride == run)) {
    run *= inside[joined].size;
    ++joined;
  }
  const Dim outside[] = {{grid.batch, strides[0]},
                         {grid.frames, strides[1]},
                         {grid.patch_rows(), grid.scale * strides[2]},
                         {grid.patch_cols(), grid.scale * strides[3]}};
  const auto fits = [&](int64_t unit) {
    bool aligned = run % unit == 0 && reinterpret_cast<uintptr_t>(cells) % (unit * element_size) == 0;
    for (const Dim& dim : outside) aligned = aligned && (dim.size == 1 || dim.stride % unit == 0);
    for (int i = joined; i < 5; ++i) {
      aligned = aligned && (inside[i].size == 1 || inside[i].stride % unit == 0);
    }
    return aligned;
  };
  int64_t unit = 16 / element_size;
  while (unit > 1 && !fits(unit)) unit /= 2;
  return static_cast<int>(unit * element_size);
}

// 32-bit numbers are enough on a GPU up to here, for all that it counts: patches, features, rows and columns.
constexpr int64_t kMostOnGpu = int64_t{1} << 30;

}  // namespace ddit::kernels

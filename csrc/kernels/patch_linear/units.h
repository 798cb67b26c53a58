// How many bytes of a PatchMatrix can be moved at once.
#pragma once

#include <cstdint>

#include "kernels/patch_linear/params.h"

namespace ddit::kernels::patch_linear {

// The largest of 16, 8, 4 and 2 bytes (at least an element) that can be moved at once everywhere: such a unit
// of features lies together in memory in every patch, and aligned. At a ragged edge a unit stays inside one
// pixel row; its columns may still be cut off.
inline int unit_bytes(const PatchMatrix& matrix, int element_size) {
  const PatchGrid& grid = matrix.grid;
  const auto& stride = matrix.strides;
  const bool ragged = grid.rows % grid.scale != 0 || grid.cols % grid.scale != 0;
  struct Dim {
    int64_t size, stride;
  };
  const Dim inside[] = {{grid.p, stride[6]},
                        {grid.scale, stride[3]},
                        {grid.p, stride[5]},
                        {grid.scale, stride[2]},
                        {grid.channels, stride[4]}};
  int64_t run = 1;  // how many features are neighbours
  int joined = 0;
  while (joined < (ragged ? 2 : 5) && (inside[joined].size == 1 || inside[joined].stride == run)) {
    run *= inside[joined].size;
    ++joined;
  }
  const Dim outside[] = {{grid.batch, stride[0]},
                         {grid.frames, stride[1]},
                         {grid.patch_rows(), grid.scale * stride[2]},
                         {grid.patch_cols(), grid.scale * stride[3]}};
  const auto fits = [&](int64_t unit) {
    bool aligned = run % unit == 0 && reinterpret_cast<uintptr_t>(matrix.data) % (unit * element_size) == 0;
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

}  // namespace ddit::kernels::patch_linear

// patch_embed, the gathering half: cells -> patches [patches, C*(s*p)^2]. The product is the caller's.
//
// Elements are moved, never computed with, so only their size matters. Past a ragged edge the last pixel row
// and column are repeated.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/patch_grid.h"

namespace ddit::kernels::patch_embed {

struct Params {
  const void* cells;               // [B, F, h, w, C, p, p]
  std::array<int64_t, 7> strides;  // of cells, in elements; any
  void* patches;                   // [grid.patches(), grid.features()], contiguous
  int64_t element_size;            // in bytes: 2, 4 or 8
  PatchGrid grid;
};

// Prepared once a call, then run on disjoint ranges of patches, from any threads.
class Gather {
 public:
  explicit Gather(const Params& params);
  void run(int64_t first_patch, int64_t last_patch) const;

 private:
  // Byte offsets, from a patch's first pixel, of the units that make up its row of `patches`. A unit is one
  // element, or the p pixels of a cell's row where they are neighbours in memory.
  struct Units {
    int64_t bytes = 0;
    std::vector<int64_t> offsets;
  };
  Units units(int64_t rows_inside, int64_t cols_inside) const;

  Params params_;
  Units whole_, bottom_, right_, corner_;  // the last three are used at ragged edges only
};

}  // namespace ddit::kernels::patch_embed

// patch_embed, the gathering half: cells -> patches [patches, C*(s*p)^2]. The product is the caller's.
//
// Without factors elements are moved, never computed with, so only their size matters. With them each is
// multiplied in float32 (float64 for float64) and rounded once. Past a ragged edge the last pixel row and
// column are repeated.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/patch_grid.h"

namespace ddit::kernels::patch_embed {

// Of each sample's channels. Strides are in elements; 0 where all have the same.
struct Factors {
  const float* data = nullptr;  // null: all are 1
  int64_t sample_stride = 0, channel_stride = 0;
};

struct Params {
  const void* cells;               // [B, F, h, w, C, p, p]
  std::array<int64_t, 7> strides;  // of cells, in elements; any
  DType from;                      // of cells
  void* patches;                   // [grid.patches(), grid.features()], contiguous
  DType to;                        // of patches; another than `from` only from float32 and with factors
  PatchGrid grid;
  Factors factors;
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
  void copy(const PatchPosition& at, char* to) const;

  Params params_;
  Units whole_, bottom_, right_, corner_;  // the last three are used at ragged edges only
};

}  // namespace ddit::kernels::patch_embed

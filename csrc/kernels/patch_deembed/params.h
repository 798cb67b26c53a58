// patch_deembed, the scattering half: patches [patches, C*(s*p)^2] -> contiguous cells [B, F, h, w, C, p, p].
//
// Elements are moved, never computed with, so only their size matters. What hangs over a ragged edge is
// dropped.
#pragma once

#include <cstdint>

#include "kernels/patch_grid.h"

namespace ddit::kernels::patch_deembed {

struct Params {
  const void* patches;   // [grid.patches(), grid.features()], contiguous
  void* cells;           // [B, F, h, w, C, p, p], contiguous
  int64_t element_size;  // in bytes
  PatchGrid grid;
};

// Writes the cells of patches [first_patch, last_patch). Disjoint ranges write disjoint cells.
void scatter_cpu(const Params& params, int64_t first_patch, int64_t last_patch);

}  // namespace ddit::kernels::patch_deembed

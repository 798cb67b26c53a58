// What one launch computes, planned on the host: the kernel's argument, and where things lie in the
// workspace.
#pragma once

#include <cstdint>

#include "kernels/cuda/fast_div.cuh"

namespace ddit::kernels::acceleration_quantiles {

constexpr int kMostLevels = 8;  // scales of one launch; a longer list takes several
constexpr int kTile = 4;        // base cells on a side of a tile, which one warp reads
constexpr int kFineLevels = 3;  // scales 1, 2, 4: merged inside a tile
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
static_assert(kMostLevels <= kWarps, "a warp a level in the selection");

// The patches of one scale.
struct CudaLevel {
  int64_t first;  // where its variances start among those of a sample: [F][rows][columns]
  int scale;      // no larger than the frame
  cuda::FastDiv rows, columns;
  uint32_t patches;  // of all frames of a sample
  bool coarse;       // not a scale that tiles give
};

struct Task {
  const void* latents[4];
  int64_t strides[4][7];
  int frames, rows, columns, channels, p;  // cells [B, frames, rows, columns, channels, p, p]

  int tile_rows, tile_columns;  // of a frame
  int64_t tiles;                // of a sample
  unsigned blocks;              // of a sample

  CudaLevel levels[kMostLevels];  // distinct scales
  int level_count;
  // Where the variances of scales 1, 2, 4 start among those of a sample; -1 where nobody needs them.
  int64_t fine_first[kFineLevels];
  double quantile;
  float* variances;  // [B][variances_per_sample]
  int64_t variances_per_sample;
  double* means;  // of base cells, [B][frames][rows][columns][channels]; null where no level is coarser than
                  // a tile
  unsigned* arrived;  // [B], zeroed: how many blocks of a sample are done

  float* output;  // [B][output_stride], this launch's first column
  int64_t output_stride;
  int output_level[kMostLevels];  // which level a column shows
  int output_count;
};

}  // namespace ddit::kernels::acceleration_quantiles

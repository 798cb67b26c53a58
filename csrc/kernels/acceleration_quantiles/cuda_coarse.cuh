// Scales that tiles don't give: patches merged from the base cells' means and variances, one warp a patch, by
// the last block of a sample. Slower than the tiles' path, for any scale.
#pragma once

#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/acceleration_quantiles/cuda_tile.cuh"

namespace ddit::kernels::acceleration_quantiles {

// All base cells have p x p pixels, so a patch's mean is the mean of its cells' means, ragged or not, and
//   variance = mean over cells of (the cell's variance + the squared distance of its means to the patch's /
//   C).
__device__ __forceinline__ void merge_patch(const Task& task, const CudaLevel& level, int64_t sample,
                                            uint32_t patch) {
  const int lane = threadIdx.x % 32;
  uint32_t index = patch;
  const int column = static_cast<int>(level.columns.split(index)) * level.scale;
  const int row = static_cast<int>(level.rows.split(index)) * level.scale;
  const int64_t frame = sample * task.frames + index;
  const int height = min(level.scale, task.rows - row), width = min(level.scale, task.columns - column);
  const int64_t first = (frame * task.rows + row) * task.columns + column;  // of all base cells
  const double cells = static_cast<double>(height) * width;

  double between = 0.0;
  for (int c = lane; c < task.channels; c += 32) {
    double mean = 0.0;
    for (int i = 0; i < height; ++i) {
      for (int j = 0; j < width; ++j) {
        mean += __ldcg(task.means + (first + int64_t{i} * task.columns + j) * task.channels + c);
      }
    }
    mean /= cells;
    for (int i = 0; i < height; ++i) {
      for (int j = 0; j < width; ++j) {
        const double apart =
            __ldcg(task.means + (first + int64_t{i} * task.columns + j) * task.channels + c) - mean;
        between += apart * apart;
      }
    }
  }
  // The base cells of a frame lie in their variances as they do in the means.
  const float* base = task.variances + sample * task.variances_per_sample + task.fine_first[0] +
                      (int64_t{index} * task.rows + row) * task.columns + column;
  double within = 0.0;
  for (int i = 0; i < height; ++i) {
    for (int j = lane; j < width; j += 32) within += __ldcg(base + int64_t{i} * task.columns + j);
  }
  const double variance = sum_over_lanes(within + between / task.channels, 1, 16) / cells;
  if (lane == 0) {
    task.variances[sample * task.variances_per_sample + level.first + patch] = static_cast<float>(variance);
  }
}

__device__ __forceinline__ void merge_coarse_levels(const Task& task, int64_t sample) {
  for (int l = 0; l < task.level_count; ++l) {
    const CudaLevel& level = task.levels[l];
    if (!level.coarse) continue;
    for (uint32_t patch = threadIdx.x / 32; patch < level.patches; patch += kWarps) {
      merge_patch(task, level, sample, patch);
    }
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

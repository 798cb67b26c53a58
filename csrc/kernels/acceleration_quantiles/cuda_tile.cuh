// One warp, one tile of 4 x 4 base cells: the variances at scales 1, 2 and 4, from one read of the latents.
//
// Lane l holds quad l / 8 of the tile (2 x 2 cells) and the channels l % 8, l % 8 + 8, ... A cell's moments
// come from its pixels in two passes, a quad's and the tile's by Chan's merge; no sum of squares is ever
// subtracted. Pixels are taken relative to their cell's first pixel, the cells' means to the tile's: a
// float32 mean of 10000 would carry a rounding error as large as the deviations sought.
#pragma once

#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/acceleration_quantiles/cuda_read.cuh"

namespace ddit::kernels::acceleration_quantiles {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kChannelLanes = 8;
constexpr int kQuadCells = 4;

__device__ __forceinline__ float square(float x) { return x * x; }

template <class T>
__device__ __forceinline__ T sum_over_lanes(T value, int first_bit, int last_bit) {
  for (int bit = first_bit; bit <= last_bit; bit *= 2) value += __shfl_xor_sync(kAllLanes, value, bit);
  return value;
}

// Where a lane's quad lies.
struct Quad {
  int frame, row, column;
  bool here, down, right;  // its first cell is inside, and there is a row below, a column beyond
  int cells;               // inside: those beyond a ragged edge are not

  __device__ __forceinline__ Quad(const Task& task, int64_t tile, int quad) {
    const int64_t in_frame = tile % (int64_t{task.tile_rows} * task.tile_columns);
    frame = static_cast<int>(tile / (int64_t{task.tile_rows} * task.tile_columns));
    row = static_cast<int>(in_frame / task.tile_columns) * kTile + quad / 2 * 2;
    column = static_cast<int>(in_frame % task.tile_columns) * kTile + quad % 2 * 2;
    here = row < task.rows && column < task.columns;
    down = row + 1 < task.rows;
    right = column + 1 < task.columns;
    cells = here ? (down ? 2 : 1) * (right ? 2 : 1) : 0;
  }

  __device__ __forceinline__ bool inside(int k) const {
    return here && (k / 2 == 0 || down) && (k % 2 == 0 || right);
  }
};

// One channel of a quad: its four cells' means, relative to the origin, and sums of squared deviations.
struct QuadMoments {
  float origin;
  float mean[kQuadCells];
  float spread[kQuadCells];
};

// All lanes call it; those that `reads` is false for, and cells outside, get zeros. Pairs are read all the
// same, where another cell or lane reads: without a branch between them, all 32 loads are under way at once.
// Pixel by pixel, a cell alone has 16, and all of them would not fit into the registers.
template <class T, bool kPairs>
__device__ __forceinline__ QuadMoments quad_of_2x2_pixels(const Task& task, const Sources<T>& channel,
                                                          const Quad& quad, bool reads) {
  float pixels[kQuadCells][4] = {};
#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) {
    if (!kPairs && !(reads && quad.inside(k))) continue;
    const Sources<T> cell = channel.moved(task, 2, k / 2 && quad.down).moved(task, 3, k % 2 && quad.right);
#pragma unroll
    for (int dy = 0; dy < 2; ++dy) {
      const Sources<T> row = cell.moved(task, 5, dy);
      if constexpr (kPairs) {
        row.differences(&pixels[k][2 * dy]);
      } else {
        pixels[k][2 * dy] = row.difference();
        pixels[k][2 * dy + 1] = row.moved(task, 6, 1).difference();
      }
    }
  }
  QuadMoments moments;
  moments.origin = __shfl_sync(kAllLanes, pixels[0][0], threadIdx.x % kChannelLanes);
#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) {
    const float first = pixels[k][0];
    const float b = pixels[k][1] - first, c = pixels[k][2] - first, d = pixels[k][3] - first;
    const float mean = (b + (c + d)) * 0.25f;
    const bool inside = reads && quad.inside(k);
    moments.mean[k] = inside ? (first - moments.origin) + mean : 0.0f;
    moments.spread[k] =
        inside ? (square(mean) + square(b - mean)) + (square(c - mean) + square(d - mean)) : 0.0f;
  }
  return moments;
}

// Cells of any size, pixel by pixel (Welford).
template <class T>
__device__ __forceinline__ QuadMoments quad_of_any_pixels(const Task& task, const Sources<T>& channel,
                                                          const Quad& quad, bool reads) {
  QuadMoments moments{};
  float firsts[kQuadCells] = {};
#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) {
    if (!reads || !quad.inside(k)) continue;
    const Sources<T> cell = channel.moved(task, 2, k / 2).moved(task, 3, k % 2);
    firsts[k] = cell.difference();
    float count = 0.0f;
    for (int y = 0; y < task.p; ++y) {
      Sources<T> pixel = cell.moved(task, 5, y);
      for (int x = 0; x < task.p; ++x, pixel = pixel.moved(task, 6, 1)) {
        const float value = pixel.difference() - firsts[k];
        const float apart = value - moments.mean[k];
        count += 1.0f;
        moments.mean[k] += apart / count;
        moments.spread[k] += apart * (value - moments.mean[k]);
      }
    }
  }
  moments.origin = __shfl_sync(kAllLanes, firsts[0], threadIdx.x % kChannelLanes);
#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) {
    if (reads && quad.inside(k)) moments.mean[k] += firsts[k] - moments.origin;
  }
  return moments;
}

// Sums over channels of squared deviations: of a lane's cells, of its quad, and its share of the tile's.
struct TileSpread {
  float cell[kQuadCells] = {};
  float quad = 0.0f;
  float tile = 0.0f;

  // tile_cells: inside, of all four quads. All lanes call it.
  __device__ __forceinline__ void add(const QuadMoments& channel, const Quad& at, float tile_cells,
                                      float pixels) {
    float within = 0.0f, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kQuadCells; ++k) {
      cell[k] += channel.spread[k];
      within += channel.spread[k];
      sum += channel.mean[k];
    }
    const float quad_cells = static_cast<float>(at.cells);
    const float quad_mean = at.cells ? sum / quad_cells : 0.0f;
    float between = 0.0f;
#pragma unroll
    for (int k = 0; k < kQuadCells; ++k) {
      if (at.inside(k)) between += square(channel.mean[k] - quad_mean);
    }
    within += pixels * between;
    quad += within;
    const float tile_mean = sum_over_lanes(sum, kChannelLanes, 2 * kChannelLanes) / tile_cells;
    if (at.cells) tile += within + quad_cells * pixels * square(quad_mean - tile_mean);
  }
};

__device__ __forceinline__ void store_means(const Task& task, const QuadMoments& channel, const Quad& quad,
                                            int64_t sample, int c) {
  for (int k = 0; k < kQuadCells; ++k) {
    if (!quad.inside(k)) continue;
    const int64_t cell = ((sample * task.frames + quad.frame) * task.rows + quad.row + k / 2) * task.columns +
                         quad.column + k % 2;
    task.means[cell * task.channels + c] =
        static_cast<double>(channel.origin) + static_cast<double>(channel.mean[k]);
  }
}

// scale_log2: 0, 1, 2; row and column in patches of that scale.
__device__ __forceinline__ void store_variance(const Task& task, int64_t sample, int scale_log2,
                                               const Quad& quad, int row, int column, float spread,
                                               int cells) {
  if (task.fine_first[scale_log2] < 0) return;
  const int scale = 1 << scale_log2;
  const int rows = (task.rows + scale - 1) / scale, columns = (task.columns + scale - 1) / scale;
  const int64_t patch = (int64_t{quad.frame} * rows + row) * columns + column;
  const float values = static_cast<float>(task.channels) * static_cast<float>(task.p * task.p * cells);
  task.variances[sample * task.variances_per_sample + task.fine_first[scale_log2] + patch] = spread / values;
}

// kPixels: 2 where p is, else 0. kPairs: neighbouring pixels can be read at once.
template <class T, int kPixels, bool kPairs>
__device__ __forceinline__ void tile_variances(const Task& task, int64_t sample, int64_t tile) {
  const int lane = threadIdx.x % 32;
  const Quad quad(task, tile, lane / kChannelLanes);
  const float tile_cells = sum_over_lanes(static_cast<float>(quad.cells), kChannelLanes, 2 * kChannelLanes);
  const float pixels = static_cast<float>(task.p * task.p);
  const Sources<T> corner = sources_of<T>(task)
                                .moved(task, 0, sample)
                                .moved(task, 1, quad.frame)
                                .moved(task, 2, min(quad.row, task.rows - 1))
                                .moved(task, 3, min(quad.column, task.columns - 1));

  TileSpread spread;
  for (int first = 0; first < task.channels; first += kChannelLanes) {
    const int c = first + lane % kChannelLanes;
    const bool reads = c < task.channels;
    const Sources<T> channel = corner.moved(task, 4, min(c, task.channels - 1));
    QuadMoments moments;
    if constexpr (kPixels == 2) {
      moments = quad_of_2x2_pixels<T, kPairs>(task, channel, quad, reads);
    } else {
      moments = quad_of_any_pixels<T>(task, channel, quad, reads);
    }
    spread.add(moments, quad, tile_cells, pixels);
    if (task.means && reads) store_means(task, moments, quad, sample, c);
  }

#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) spread.cell[k] = sum_over_lanes(spread.cell[k], 1, kChannelLanes / 2);
  spread.quad = sum_over_lanes(spread.quad, 1, kChannelLanes / 2);
  spread.tile = sum_over_lanes(spread.tile, 1, 16);
  if (lane % kChannelLanes != 0) return;
#pragma unroll
  for (int k = 0; k < kQuadCells; ++k) {
    if (quad.inside(k)) {
      store_variance(task, sample, 0, quad, quad.row + k / 2, quad.column + k % 2, spread.cell[k], 1);
    }
  }
  if (quad.cells)
    store_variance(task, sample, 1, quad, quad.row / 2, quad.column / 2, spread.quad, quad.cells);
  if (lane == 0) {
    store_variance(task, sample, 2, quad, quad.row / kTile, quad.column / kTile, spread.tile,
                   static_cast<int>(tile_cells));
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

// One row of base cells: from the four latents, in any layout, to means[cell][channel] and spread[cell].
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/acceleration_quantiles/cpu_moments.h"
#include "kernels/acceleration_quantiles/cpu_read.h"
#include "kernels/acceleration_quantiles/params.h"

namespace ddit::kernels::acceleration_quantiles {

enum Axis { kSample, kFrame, kRow, kColumn, kChannel, kPixelRow, kPixelColumn };

enum class Layout {
  kPacked,  // a cell's [C, p, p] is contiguous: FLUX's packed tokens
  kPlanar,  // a row of pixels is contiguous: Wan's and plain latents
  kStrided  // anything else
};

inline bool is_packed(const CellsShape& sizes, const CellsShape& strides) {
  const int64_t p = sizes[kPixelColumn];
  return (p == 1 || strides[kPixelColumn] == 1) && (sizes[kPixelRow] == 1 || strides[kPixelRow] == p) &&
         (sizes[kChannel] == 1 || strides[kChannel] == p * sizes[kPixelRow]);
}

inline bool is_planar(const CellsShape& sizes, const CellsShape& strides) {
  const int64_t p = sizes[kPixelColumn];
  return (p == 1 || strides[kPixelColumn] == 1) && (sizes[kColumn] == 1 || strides[kColumn] == p);
}

inline Layout common_layout(const Params& params) {
  bool packed = true;
  bool planar = true;
  for (const CellsView& latent : params.latents) {
    packed = packed && is_packed(params.sizes, latent.strides);
    planar = planar && is_planar(params.sizes, latent.strides);
  }
  return packed ? Layout::kPacked : planar ? Layout::kPlanar : Layout::kStrided;
}

// The four latents at one cell (or pixel) and how far it is to the next one along each axis.
template <class T>
struct Cursor {
  Sources<T> at;
  int64_t step[kCellsDims][kLatents];

  explicit Cursor(const Params& params) {
    for (int k = 0; k < kLatents; ++k) {
      at.z[k] = static_cast<const T*>(params.latents[k].data);
      for (int axis = 0; axis < kCellsDims; ++axis) step[axis][k] = params.latents[k].strides[axis];
    }
  }

  bool is_step(Axis axis, int64_t elements) const {
    const auto& s = step[axis];
    return s[0] == elements && s[1] == elements && s[2] == elements && s[3] == elements;
  }

  Sources<T> moved(const Sources<T>& from, Axis axis, int64_t count) const {
    const auto& s = step[axis];
    return from.shifted({s[0] * count, s[1] * count, s[2] * count, s[3] * count});
  }
};

// out[c][dy][dx] = third difference, for one cell of any layout.
template <class T, class A>
inline void gather_cell(const Cursor<T>& cursor, const Sources<T>& cell, const CellsShape& sizes, A* out) {
  for (int64_t c = 0; c < sizes[kChannel]; ++c) {
    const Sources<T> channel = cursor.moved(cell, kChannel, c);
    for (int64_t dy = 0; dy < sizes[kPixelRow]; ++dy) {
      const Sources<T> row = cursor.moved(channel, kPixelRow, dy);
      for (int64_t dx = 0; dx < sizes[kPixelColumn]; ++dx) {
        *out++ = third_difference_at(cursor.moved(row, kPixelColumn, dx));
      }
    }
  }
}

// Means are kept relative to an origin near them, the first pixel of each channel in the band: a float32 mean
// of 10000 would otherwise carry a rounding error as large as the deviations sought. origin[c][pixel], equal
// over pixels, and so again for each of `cells`.
template <class T, class A>
inline void choose_origin(const Cursor<T>& cursor, const Sources<T>& first, const CellsShape& sizes,
                          int64_t cells, A* origin) {
  const int64_t pixels = sizes[kPixelRow] * sizes[kPixelColumn];
  const int64_t elements = sizes[kChannel] * pixels;
  for (int64_t c = 0; c < sizes[kChannel]; ++c) {
    const A value = third_difference_at(cursor.moved(first, kChannel, c));
    for (int64_t k = 0; k < pixels; ++k) origin[c * pixels + k] = value;
  }
  for (int64_t cell = 1; cell < cells; ++cell) std::copy_n(origin, elements, origin + cell * elements);
}

// Any layout and p, cell by cell. `scratch` has room for one cell.
template <class T, class A>
inline void row_by_cells(const Cursor<T>& cursor, const Sources<T>& row, const CellsShape& sizes,
                         Layout layout, const A* origin, A* scratch, A* means, A* spread) {
  const int64_t channels = sizes[kChannel];
  const int64_t pixels = sizes[kPixelRow] * sizes[kPixelColumn];
  for (int64_t j = 0; j < sizes[kColumn]; ++j) {
    const Sources<T> cell = cursor.moved(row, kColumn, j);
    if (layout == Layout::kPacked) {
      read_run(cell, channels * pixels, origin, scratch);
    } else {
      gather_cell(cursor, cell, sizes, scratch);
      for (int64_t k = 0; k < channels * pixels; ++k) scratch[k] -= origin[k];
    }
    spread[j] = cell_moments(scratch, channels, pixels, means + j * channels);
  }
}

// So many cells are read at a time: some thousand elements, which stay in the cache, in loops long enough to
// be worth their start.
inline int64_t cells_at_a_time(const CellsShape& sizes) {
  const int64_t elements = sizes[kChannel] * sizes[kPixelRow] * sizes[kPixelColumn];
  return std::min(sizes[kColumn], std::max<int64_t>(1, 1024 / elements));
}

// Packed, p = 2: several cells as one run where they follow each other. origin: of cells_at_a_time cells;
// `scratch` has room for as many, and for a number a channel of each.
template <class T, class A>
inline void row_by_packed_cells(const Cursor<T>& cursor, const Sources<T>& row, const CellsShape& sizes,
                                const A* origin, A* scratch, A* means, A* spread) {
  const int64_t channels = sizes[kChannel], elements = 4 * channels;
  const int64_t most = cells_at_a_time(sizes);
  const bool one_run = cursor.is_step(kColumn, elements);
  A* within = scratch + most * elements;
  for (int64_t j = 0; j < sizes[kColumn]; j += most) {
    const int64_t cells = std::min(most, sizes[kColumn] - j);
    if (one_run) {
      read_run(cursor.moved(row, kColumn, j), cells * elements, origin, scratch);
    } else {
      for (int64_t k = 0; k < cells; ++k) {
        read_run(cursor.moved(row, kColumn, j + k), elements, origin, scratch + k * elements);
      }
    }
    moments_of_four(scratch, cells * channels, means + j * channels, within);
    for (int64_t k = 0; k < cells; ++k) spread[j + k] = sum_of(within + k * channels, channels);
  }
}

// Planar, p = 2: two contiguous rows of pixels at a time, channel by channel.
template <class A>
inline void add_cells_of_two_rows(const A* __restrict__ upper, const A* __restrict__ lower, int64_t cells,
                                  A* __restrict__ means, int64_t mean_stride, A* __restrict__ spread) {
  for (int64_t j = 0; j < cells; ++j) {
    const A a = upper[2 * j], b = upper[2 * j + 1], c = lower[2 * j], d = lower[2 * j + 1];
    const A m = ((a + b) + (c + d)) * A(0.25);
    means[j * mean_stride] = m;
    spread[j] += (square(a - m) + square(b - m)) + (square(c - m) + square(d - m));
  }
}

// Planar, any p.
template <class A>
inline void add_cells_of_rows(const A* rows, const CellsShape& sizes, A* means, int64_t mean_stride,
                              A* spread) {
  const int64_t height = sizes[kPixelRow];
  const int64_t width = sizes[kPixelColumn];
  const int64_t row_length = sizes[kColumn] * width;
  for (int64_t j = 0; j < sizes[kColumn]; ++j) {
    const A* cell = rows + j * width;
    A sum = 0;
    for (int64_t dy = 0; dy < height; ++dy) {
      for (int64_t dx = 0; dx < width; ++dx) sum += cell[dy * row_length + dx];
    }
    const A m = sum / A(height * width);
    for (int64_t dy = 0; dy < height; ++dy) {
      for (int64_t dx = 0; dx < width; ++dx) spread[j] += square(cell[dy * row_length + dx] - m);
    }
    means[j * mean_stride] = m;
  }
}

// A band of planar rows, channel by channel: the rows of one channel follow each other in memory. `scratch`
// has room for p rows of w * p pixels.
template <class T, class A>
inline void band_by_pixel_rows(const Cursor<T>& cursor, const Sources<T>& band, int64_t rows,
                               const CellsShape& sizes, const A* origin, A* scratch, A* means, A* spread) {
  const int64_t channels = sizes[kChannel];
  const int64_t height = sizes[kPixelRow];
  const int64_t width = sizes[kPixelColumn];
  const int64_t columns = sizes[kColumn];
  const int64_t row_length = columns * width;
  for (int64_t j = 0; j < rows * columns; ++j) spread[j] = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const Sources<T> channel = cursor.moved(band, kChannel, c);
    for (int64_t i = 0; i < rows; ++i) {
      const Sources<T> row = cursor.moved(channel, kRow, i);
      for (int64_t dy = 0; dy < height; ++dy) {
        read_run(cursor.moved(row, kPixelRow, dy), row_length, origin[c * height * width],
                 scratch + dy * row_length);
      }
      A* row_means = means + i * columns * channels + c;
      A* row_spread = spread + i * columns;
      if (height == 2 && width == 2) {
        add_cells_of_two_rows(scratch, scratch + row_length, columns, row_means, channels, row_spread);
      } else {
        add_cells_of_rows(scratch, sizes, row_means, channels, row_spread);
      }
    }
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

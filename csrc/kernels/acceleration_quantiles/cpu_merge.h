// From the moments of small patches to those of larger ones, inside a band of rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/acceleration_quantiles/cpu_cells.h"
#include "kernels/acceleration_quantiles/cpu_moments.h"
#include "kernels/acceleration_quantiles/cpu_plan.h"
#include "kernels/acceleration_quantiles/params.h"

namespace ddit::kernels::acceleration_quantiles {

// The moments of one level's patches in the band at hand.
template <class A>
struct LevelMoments {
  A* means;   // [rows][columns][C], relative to the band's origin
  A* spread;  // [rows][columns]
};

struct Band {
  int64_t sample, frame;
  int64_t first_row, rows;  // base rows
};

// How many base cells the patch `index` of a scale covers along one axis of `extent` base cells.
inline int64_t covered(int64_t index, int64_t scale, int64_t extent) {
  return std::min(scale, extent - index * scale);
}

// A patch from all its parts, whose pixel counts may differ: Chan's formula with the mean taken first.
template <class A>
inline A merge_parts(const LevelMoments<A>& parts, const Level& part, const CellsShape& sizes,
                     const Band& band, int64_t row0, int64_t row1, int64_t column0, int64_t column1,
                     A patch_cells, A* means) {
  const int64_t channels = sizes[kChannel];
  const A pixels = A(sizes[kPixelRow] * sizes[kPixelColumn]);
  for (int64_t c = 0; c < channels; ++c) means[c] = 0;
  for (int64_t i = row0; i < row1; ++i) {
    for (int64_t j = column0; j < column1; ++j) {
      const A cells = A(covered(i, part.scale, band.rows) * covered(j, part.scale, sizes[kColumn]));
      add_weighted_mean(parts.means + (i * part.columns + j) * channels, channels, cells / patch_cells,
                        means);
    }
  }
  A spread = 0;
  for (int64_t i = row0; i < row1; ++i) {
    for (int64_t j = column0; j < column1; ++j) {
      const A cells = A(covered(i, part.scale, band.rows) * covered(j, part.scale, sizes[kColumn]));
      const int64_t at = i * part.columns + j;
      spread +=
          parts.spread[at] + cells * pixels * squared_distance(parts.means + at * channels, means, channels);
    }
  }
  return spread;
}

template <class A>
inline void merge_level(const Level& level, const Level& part, const LevelMoments<A>& parts,
                        const LevelMoments<A>& patches, const CellsShape& sizes, const Band& band) {
  const int64_t channels = sizes[kChannel];
  const int64_t ratio = level.scale / part.scale;
  const int64_t part_rows = ceil_div(band.rows, part.scale);
  const int64_t rows = ceil_div(band.rows, level.scale);
  const A part_pixels = A(part.scale * part.scale * sizes[kPixelRow] * sizes[kPixelColumn]);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t cell_rows = covered(i, level.scale, band.rows);
    for (int64_t j = 0; j < level.columns; ++j) {
      const int64_t cell_columns = covered(j, level.scale, sizes[kColumn]);
      const int64_t at = i * level.columns + j;
      A* means = patches.means + at * channels;
      if (ratio == 2 && cell_rows == level.scale && cell_columns == level.scale) {
        const int64_t first = 2 * i * part.columns + 2 * j;
        const int64_t part_at[4] = {first, first + 1, first + part.columns, first + part.columns + 1};
        const A* child[4];
        A within = 0;
        for (int k = 0; k < 4; ++k) {
          child[k] = parts.means + part_at[k] * channels;
          within += parts.spread[part_at[k]];
        }
        patches.spread[at] = within + merge_four(child, channels, part_pixels, means);
      } else {
        patches.spread[at] =
            merge_parts(parts, part, sizes, band, ratio * i, std::min(ratio * (i + 1), part_rows), ratio * j,
                        std::min(ratio * (j + 1), part.columns), A(cell_rows * cell_columns), means);
      }
    }
  }
}

// sigma² of the band's patches, into the sample's variances of that level: [F][rows][columns].
template <class A>
inline void store_variances(const Level& level, const A* spread, const CellsShape& sizes, const Band& band,
                            A* variances) {
  const A per_cell = A(sizes[kChannel] * sizes[kPixelRow] * sizes[kPixelColumn]);
  const int64_t rows = ceil_div(band.rows, level.scale);
  A* out = variances + level.first_variance +
           (band.frame * level.rows + band.first_row / level.scale) * level.columns;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t cell_rows = covered(i, level.scale, band.rows);
    for (int64_t j = 0; j < level.columns; ++j, ++out, ++spread) {
      *out = *spread / (per_cell * A(cell_rows * covered(j, level.scale, sizes[kColumn])));
    }
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

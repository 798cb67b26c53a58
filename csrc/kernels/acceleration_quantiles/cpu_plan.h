// What is computed from what: the scales as levels, finest first, and the bands the work is cut into.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/acceleration_quantiles/params.h"

namespace ddit::kernels::acceleration_quantiles {

constexpr int64_t kElementsPerBand = 1 << 14;

// The patches of one scale. A patch is merged from patches of the parent level, whose scale divides its own.
struct Level {
  int64_t scale;
  size_t parent;           // index of the parent level; the base level is its own
  int64_t rows, columns;   // patches of a frame
  int64_t first_variance;  // where the level starts among a sample's variances
  int64_t patches;         // of all frames of a sample
};

struct Plan {
  std::vector<Level> levels;  // by scale; levels[0] is the base scale 1, asked for or not
  int64_t band_rows;  // base rows; a multiple of every scale, or the whole frame: no patch straddles bands
  int64_t bands;      // of a frame
  int64_t variances;  // of a sample
};

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// A patch larger than the frame is the frame.
inline int64_t within_frame(int64_t scale, const CellsShape& sizes) {
  return std::min(scale, std::max(sizes[2], sizes[3]));
}

inline Plan make_plan(const Params& params) {
  const int64_t frames = params.sizes[1], h = params.sizes[2], w = params.sizes[3];
  std::vector<int64_t> scales(params.scales, params.scales + params.num_scales);
  for (int64_t& scale : scales) scale = within_frame(scale, params.sizes);
  scales.push_back(1);
  std::sort(scales.begin(), scales.end());
  scales.erase(std::unique(scales.begin(), scales.end()), scales.end());

  Plan plan{{}, 1, 0, 0};
  for (const int64_t scale : scales) {
    size_t parent = plan.levels.size();
    while (parent > 0 && scale % plan.levels[--parent].scale != 0) {
    }
    const int64_t rows = ceil_div(h, scale), columns = ceil_div(w, scale);
    plan.levels.push_back({scale, parent, rows, columns, plan.variances, frames * rows * columns});
    plan.variances += frames * rows * columns;
    plan.band_rows = scale >= h || plan.band_rows >= h ? h : std::min(h, std::lcm(plan.band_rows, scale));
  }
  // Few bands, for longer stretches of memory, as long as one's moments stay in the cache.
  const int64_t row_elements = w * params.sizes[4] * params.sizes[5] * params.sizes[6];
  const int64_t fit = std::max<int64_t>(1, kElementsPerBand / (plan.band_rows * row_elements));
  plan.band_rows = std::min(h, plan.band_rows * std::min(fit, h));
  plan.bands = ceil_div(h, plan.band_rows);
  return plan;
}

}  // namespace ddit::kernels::acceleration_quantiles

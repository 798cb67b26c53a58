// acceleration_quantiles on the CPU: every latent element is read once, a band of rows at a time; the band's
// cells are merged from scale to scale while they are in the cache; then one selection per sample and scale.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/acceleration_quantiles/cpu_cells.h"
#include "kernels/acceleration_quantiles/cpu_merge.h"
#include "kernels/acceleration_quantiles/cpu_moments.h"
#include "kernels/acceleration_quantiles/cpu_plan.h"
#include "kernels/acceleration_quantiles/cpu_read.h"
#include "kernels/acceleration_quantiles/cpu_select.h"
#include "kernels/acceleration_quantiles/params.h"

// The hot function is compiled for the newer vector units too and chosen at run time; `flatten` draws its
// helpers in, so that they are compiled for that unit as well. Elsewhere the portable variant is the only
// one.
#if defined(__x86_64__) && defined(__GNUC__)
#define DDIT_X86_VARIANTS 1
#endif

namespace ddit::kernels::acceleration_quantiles {
namespace {

// About this many elements make a piece of work worth handing to another thread.
constexpr int64_t kElementsPerTask = 1 << 15;

template <class A>
struct Workspace {
  std::vector<A> storage;
  std::vector<LevelMoments<A>> levels;
  A* origin;
  A* scratch;

  Workspace(const Plan& plan, const CellsShape& sizes) {
    const int64_t channels = sizes[kChannel];
    const int64_t pixels = sizes[kPixelRow] * sizes[kPixelColumn];
    const int64_t in_origin = cells_at_a_time(sizes) * channels * pixels;
    // Cells that are read at a time and a number for each of their channels, or rows of pixels.
    const int64_t in_scratch =
        std::max(cells_at_a_time(sizes) * channels * (pixels + 1), sizes[kColumn] * pixels);
    int64_t total = in_origin + in_scratch;
    for (const Level& level : plan.levels) {
      total += ceil_div(plan.band_rows, level.scale) * level.columns * (channels + 1);
    }
    storage.resize(static_cast<size_t>(total));
    A* next = storage.data();
    auto take = [&next](int64_t count) {
      A* taken = next;
      next += count;
      return taken;
    };
    origin = take(in_origin);
    scratch = take(in_scratch);
    for (const Level& level : plan.levels) {
      const int64_t patches = ceil_div(plan.band_rows, level.scale) * level.columns;
      A* means = take(patches * channels);
      levels.push_back({means, take(patches)});
    }
  }
};

template <class T, class A>
inline void band_body(const Params& params, const Plan& plan, Layout layout, const Band& band,
                      Workspace<A>& work, A* variances) {
  const CellsShape& sizes = params.sizes;
  const Cursor<T> cursor(params);
  const Sources<T> frame = cursor.moved(cursor.moved(cursor.at, kSample, band.sample), kFrame, band.frame);
  const Sources<T> first = cursor.moved(frame, kRow, band.first_row);
  choose_origin(cursor, first, sizes, cells_at_a_time(sizes), work.origin);
  const LevelMoments<A>& base = work.levels[0];
  const bool two_by_two = sizes[kPixelRow] == 2 && sizes[kPixelColumn] == 2;
  if (layout == Layout::kPlanar) {
    band_by_pixel_rows(cursor, first, band.rows, sizes, work.origin, work.scratch, base.means, base.spread);
  }
  for (int64_t i = 0; i < band.rows && layout != Layout::kPlanar; ++i) {
    const Sources<T> row = cursor.moved(first, kRow, i);
    A* means = base.means + i * sizes[kColumn] * sizes[kChannel];
    A* spread = base.spread + i * sizes[kColumn];
    if (layout == Layout::kPacked && two_by_two) {
      row_by_packed_cells(cursor, row, sizes, work.origin, work.scratch, means, spread);
    } else {
      row_by_cells(cursor, row, sizes, layout, work.origin, work.scratch, means, spread);
    }
  }
  for (size_t k = 0; k < plan.levels.size(); ++k) {
    const Level& level = plan.levels[k];
    if (k > 0) {
      merge_level(level, plan.levels[level.parent], work.levels[level.parent], work.levels[k], sizes, band);
    }
    store_variances(level, work.levels[k].spread, sizes, band, variances);
  }
}

template <class T>
using BandFunction = void (*)(const Params&, const Plan&, Layout, const Band&, Workspace<Accumulator<T>>&,
                              Accumulator<T>*);

template <class T>
void band_portable(const Params& params, const Plan& plan, Layout layout, const Band& band,
                   Workspace<Accumulator<T>>& work, Accumulator<T>* variances) {
  band_body<T>(params, plan, layout, band, work, variances);
}

#ifdef DDIT_X86_VARIANTS
template <class T>
__attribute__((flatten, target("avx2"))) void band_avx2(const Params& params, const Plan& plan, Layout layout,
                                                        const Band& band, Workspace<Accumulator<T>>& work,
                                                        Accumulator<T>* variances) {
  band_body<T>(params, plan, layout, band, work, variances);
}

template <class T>
__attribute__((flatten, target("avx512f,avx512bw,avx512dq,avx512vl"))) void band_avx512(
    const Params& params, const Plan& plan, Layout layout, const Band& band, Workspace<Accumulator<T>>& work,
    Accumulator<T>* variances) {
  band_body<T>(params, plan, layout, band, work, variances);
}
#endif

template <class T>
BandFunction<T> choose_band_function() {
#ifdef DDIT_X86_VARIANTS
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return band_avx512<T>;
  }
  if (__builtin_cpu_supports("avx2")) return band_avx2<T>;
#endif
  return band_portable<T>;
}

template <class T>
void run(const Params& params, const ParallelFor& parallel_for) {
  using A = Accumulator<T>;
  const CellsShape& sizes = params.sizes;
  const Plan plan = make_plan(params);
  const Layout layout = common_layout(params);
  const BandFunction<T> process_band = choose_band_function<T>();

  std::vector<A> variances(static_cast<size_t>(sizes[kSample] * plan.variances));
  const int64_t bands_per_sample = sizes[kFrame] * plan.bands;
  const int64_t band_elements =
      plan.band_rows * sizes[kColumn] * sizes[kChannel] * sizes[kPixelRow] * sizes[kPixelColumn];
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / band_elements);
  parallel_for(0, sizes[kSample] * bands_per_sample, grain, [&](int64_t first, int64_t last) {
    Workspace<A> work(plan, sizes);
    for (int64_t i = first; i < last; ++i) {
      const int64_t first_row = i % plan.bands * plan.band_rows;
      const Band band{i / bands_per_sample, i % bands_per_sample / plan.bands, first_row,
                      std::min(plan.band_rows, sizes[kRow] - first_row)};
      process_band(params, plan, layout, band, work, variances.data() + band.sample * plan.variances);
    }
  });

  // A scale that is asked for twice is selected twice from the same values, so one task takes one level.
  const int64_t level_count = static_cast<int64_t>(plan.levels.size());
  const int64_t select_grain = std::max<int64_t>(1, kElementsPerTask * level_count / plan.variances);
  parallel_for(0, sizes[kSample] * level_count, select_grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t sample = i / level_count;
      const Level& level = plan.levels[static_cast<size_t>(i % level_count)];
      A* values = variances.data() + sample * plan.variances + level.first_variance;
      for (int64_t k = 0; k < params.num_scales; ++k) {
        if (within_frame(params.scales[k], sizes) != level.scale) continue;
        params.output[sample * params.num_scales + k] =
            quantile_of_deviations(values, level.patches, params.quantile);
      }
    }
  });
}

}  // namespace

void acceleration_quantiles_cpu(const Params& params, const ParallelFor& parallel_for) {
  if (params.sizes[kSample] == 0) return;
  switch (params.dtype) {
    case DType::kFloat32:
      return run<float>(params, parallel_for);
    case DType::kFloat64:
      return run<double>(params, parallel_for);
    case DType::kBFloat16:
      return run<BFloat16>(params, parallel_for);
    case DType::kFloat16:
      return run<Float16>(params, parallel_for);
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

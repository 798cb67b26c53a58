// Means and sums of squared deviations: of one base cell from its pixels, and of a patch from smaller
// patches.
//
// A row of patches is kept as means[patch][channel] and spread[patch], the sum of squared deviations from the
// channel's mean over all pixels AND channels: sigma² = spread / (C * pixels), so channels need not be kept
// apart. Everything is two-pass inside a cell and Chan's merge above it; no sum of squares is ever
// subtracted.
#pragma once

#include <cstdint>

namespace ddit::kernels::acceleration_quantiles {

// Sums in independent lanes: the compiler may then use vector registers without reordering a sum by itself.
constexpr int64_t kLanes = 16;

template <class A>
struct LaneSum {
  A lane[kLanes] = {};

  A total() {
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (int64_t l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
  }
};

template <class A>
inline A square(A x) {
  return x * x;
}

// Channels of four pixels each: their means, and their sums of squared deviations.
template <class A>
inline void moments_of_four(const A* __restrict__ pixels, int64_t channels, A* __restrict__ means,
                            A* __restrict__ within) {
  for (int64_t c = 0; c < channels; ++c) {
    const A* x = pixels + 4 * c;
    const A m = ((x[0] + x[1]) + (x[2] + x[3])) * A(0.25);
    means[c] = m;
    within[c] = (square(x[0] - m) + square(x[1] - m)) + (square(x[2] - m) + square(x[3] - m));
  }
}

// One channel of a cell: its mean, and the sum of squared deviations as the return value.
template <class A>
inline A channel_moments(const A* pixels, int64_t pixel_count, A* mean) {
  A sum = 0;
  for (int64_t k = 0; k < pixel_count; ++k) sum += pixels[k];
  const A m = sum / A(pixel_count);
  A spread = 0;
  for (int64_t k = 0; k < pixel_count; ++k) spread += square(pixels[k] - m);
  *mean = m;
  return spread;
}

// A base cell whose pixels lie as [channel][pixel].
template <class A>
inline A cell_moments(const A* __restrict__ pixels, int64_t channels, int64_t pixel_count,
                      A* __restrict__ means) {
  A spread = 0;
  for (int64_t c = 0; c < channels; ++c) {
    spread += channel_moments(pixels + c * pixel_count, pixel_count, means + c);
  }
  return spread;
}

template <class A>
inline A sum_of(const A* __restrict__ values, int64_t count) {
  A rest = 0;
  int64_t i = 0;
  if (count >= kLanes) {
    LaneSum<A> sum;
    for (; i + kLanes <= count; i += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) sum.lane[l] += values[i + l];
    }
    rest = sum.total();
  }
  for (; i < count; ++i) rest += values[i];
  return rest;
}

// Four equally large patches into one: the step from a scale to its double, away from ragged edges.
template <class A>
inline A merge_four(const A* const (&child)[4], int64_t channels, A child_pixels, A* __restrict__ means) {
  const A* a = child[0];
  const A* b = child[1];
  const A* c = child[2];
  const A* d = child[3];
  auto merge_channel = [&](int64_t i) {
    const A m = ((a[i] + b[i]) + (c[i] + d[i])) * A(0.25);
    means[i] = m;
    return (square(a[i] - m) + square(b[i] - m)) + (square(c[i] - m) + square(d[i] - m));
  };
  A between = 0;
  int64_t i = 0;
  if (channels >= kLanes) {
    LaneSum<A> sum;
    for (; i + kLanes <= channels; i += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) sum.lane[l] += merge_channel(i + l);
    }
    between = sum.total();
  }
  for (; i < channels; ++i) between += merge_channel(i);
  return child_pixels * between;
}

// means += weight * child
template <class A>
inline void add_weighted_mean(const A* __restrict__ child, int64_t channels, A weight,
                              A* __restrict__ means) {
  for (int64_t c = 0; c < channels; ++c) means[c] += weight * child[c];
}

template <class A>
inline A squared_distance(const A* __restrict__ x, const A* __restrict__ y, int64_t channels) {
  LaneSum<A> sum;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) sum.lane[l] += square(x[c + l] - y[c + l]);
  }
  A rest = 0;
  for (; c < channels; ++c) rest += square(x[c] - y[c]);
  return rest + sum.total();
}

}  // namespace ddit::kernels::acceleration_quantiles

// acceleration_quantiles as the definition reads, in double: patch by patch, two passes, a full sort.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace ddit_test {

using Shape = std::array<int64_t, 7>;  // [B, F, h, w, C, p, p]

inline int64_t count(const Shape& sizes) {
  int64_t total = 1;
  for (const int64_t size : sizes) total *= size;
  return total;
}

// Strides of a dense tensor whose axes lie in memory in `order`, slowest first.
inline Shape dense_strides(const Shape& sizes, const std::array<int, 7>& order) {
  Shape strides{};
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = stride;
    stride *= sizes[order[i]];
  }
  return strides;
}

constexpr std::array<int, 7> kPackedOrder{0, 1, 2, 3, 4, 5, 6};
constexpr std::array<int, 7> kPlanarOrder{0, 4, 1, 2, 5, 3, 6};    // [B, C, F, H, W]
constexpr std::array<int, 7> kChannelsLast{0, 1, 2, 5, 3, 6, 4};   // [B, F, H, W, C]
constexpr std::array<int, 7> kShuffledOrder{6, 4, 0, 3, 1, 5, 2};  // no layout that has a path of its own

inline int64_t offset(const Shape& index, const Shape& strides) {
  int64_t at = 0;
  for (size_t i = 0; i < index.size(); ++i) at += index[i] * strides[i];
  return at;
}

template <class T>
std::vector<T> random_values(int64_t size, unsigned seed, double mean = 0.0, double deviation = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, deviation);
  std::vector<T> values(static_cast<size_t>(size));
  for (T& value : values) value = static_cast<T>(normal(generator));
  return values;
}

// result[sample][scale]
template <class T>
std::vector<std::vector<double>> reference_quantiles(const std::array<const T*, 4>& z,
                                                     const std::array<Shape, 4>& strides, const Shape& sizes,
                                                     const std::vector<int64_t>& scales, double quantile) {
  const auto [B, F, h, w, C, ph, pw] = sizes;
  constexpr double kFactors[4] = {1, -3, 3, -1};
  auto difference = [&, &z = z, &strides = strides](const Shape& index) {
    double sum = 0;
    for (int k = 0; k < 4; ++k) sum += kFactors[k] * static_cast<double>(z[k][offset(index, strides[k])]);
    return sum;
  };
  std::vector<std::vector<double>> result;
  for (int64_t b = 0; b < B; ++b) {
    result.emplace_back();
    for (const int64_t s : scales) {
      std::vector<double> sigmas;
      for (int64_t f = 0; f < F; ++f) {
        for (int64_t i0 = 0; i0 < h; i0 += s) {
          for (int64_t j0 = 0; j0 < w; j0 += s) {
            double variances = 0;
            for (int64_t c = 0; c < C; ++c) {
              std::vector<double> pixels;
              for (int64_t i = i0; i < std::min(h, i0 + s); ++i) {
                for (int64_t j = j0; j < std::min(w, j0 + s); ++j) {
                  for (int64_t y = 0; y < ph; ++y) {
                    for (int64_t x = 0; x < pw; ++x) pixels.push_back(difference({b, f, i, j, c, y, x}));
                  }
                }
              }
              double mean = 0, squares = 0;
              for (const double pixel : pixels) mean += pixel / static_cast<double>(pixels.size());
              for (const double pixel : pixels) squares += (pixel - mean) * (pixel - mean);
              variances += squares / static_cast<double>(pixels.size());
            }
            sigmas.push_back(std::sqrt(variances / static_cast<double>(C)));
          }
        }
      }
      std::sort(sigmas.begin(), sigmas.end());
      const double rank = quantile * static_cast<double>(sigmas.size() - 1);
      const size_t below = static_cast<size_t>(rank);
      const size_t above = std::min(below + 1, sigmas.size() - 1);
      result.back().push_back(sigmas[below] +
                              (rank - static_cast<double>(below)) * (sigmas[above] - sigmas[below]));
    }
  }
  return result;
}

}  // namespace ddit_test

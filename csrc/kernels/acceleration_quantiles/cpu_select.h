// The quantile of many values by selection instead of sorting.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ddit::kernels::acceleration_quantiles {

// The `quantile` of sqrt(variances[i]), with linear interpolation between order statistics as torch.quantile.
// Reorders `variances`; any NaN among them makes the result NaN. count > 0.
template <class A>
float quantile_of_deviations(A* variances, int64_t count, double quantile) {
  bool has_nan = false;
  for (int64_t i = 0; i < count; ++i) has_nan |= variances[i] != variances[i];
  if (has_nan) return std::numeric_limits<float>::quiet_NaN();

  const double rank = quantile * static_cast<double>(count - 1);
  const int64_t below = static_cast<int64_t>(rank);  // rank >= 0, so this rounds down
  const double fraction = rank - static_cast<double>(below);
  // sqrt keeps the order, so only the two chosen values need it.
  std::nth_element(variances, variances + below, variances + count);
  const double low = std::sqrt(static_cast<double>(variances[below]));
  if (fraction == 0.0) return static_cast<float>(low);
  const A* next = std::min_element(variances + below + 1, variances + count);
  const double high = std::sqrt(static_cast<double>(*next));
  return static_cast<float>(low == high ? low : low + fraction * (high - low));
}

}  // namespace ddit::kernels::acceleration_quantiles

#include "kernels/acceleration_quantiles/params.h"

#include <sstream>

namespace ddit::kernels::acceleration_quantiles {

std::string argument_error(const std::vector<int64_t>& scales, double quantile) {
  if (scales.empty()) return "scales must name at least one patch scale, got []";
  for (size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] < 1)
      return "scales must be at least 1, got " + std::to_string(scales[i]) + " at index " + std::to_string(i);
  }
  if (quantile >= 0.0 && quantile <= 1.0) return "";
  std::ostringstream error;
  error << "quantile must be in [0, 1], got " << quantile;
  return error.str();
}

}  // namespace ddit::kernels::acceleration_quantiles

#include <stdexcept>

#include "ops/ops.h"

namespace ddit::ops {

Tensor acceleration_quantiles_cpu(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                  const std::vector<int64_t>&, double) {
  throw std::runtime_error("acceleration_quantiles: not built");
}

}  // namespace ddit::ops

#include "ddit_ext/skipped_steps.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "ddit_ext/policy.h"
#include "scheduler/errors.h"

namespace ddit {

std::vector<int64_t> growing_gaps(int64_t total_steps, int64_t computed, double growth) {
  const char* name = "growing_gaps";
  check(name, total_steps >= 1, "total_steps must be 1 or more, got ", total_steps);
  check(name, computed >= 1 && computed <= total_steps, "computed must be in [1, total_steps = ", total_steps,
        "], got ", computed);
  check(name, growth >= 1.0 && growth <= 4.0, "growth must be in [1, 4], got ", growth);
  std::vector<int64_t> schedule(static_cast<size_t>(total_steps), kSkip);
  int64_t last = -1;
  for (int64_t k = 0; k < computed; ++k) {
    const double share = std::pow(static_cast<double>(k) / static_cast<double>(computed), growth);
    const int64_t place = std::llround(static_cast<double>(total_steps) * share);
    // Those to come need a step each.
    last = std::min(std::max(last + 1, place), total_steps - (computed - k));
    schedule[static_cast<size_t>(last)] = 1;
  }
  return schedule;
}

}  // namespace ddit

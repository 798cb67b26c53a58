#include "ddit_ext/patch_scheduler.h"

#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {

PatchScheduler::PatchScheduler(std::vector<int64_t> scales, std::vector<double> thresholds,
                               int64_t protect_first, int64_t protect_last, SignalOptions options)
    : SignalPolicy("PatchScheduler", std::move(scales), protect_first, protect_last, options),
      thresholds_(std::move(thresholds)) {
  const size_t coarse = this->scales().size() - 1;
  check(name(), thresholds_.size() == coarse, "thresholds must hold one number per scale > 1, here ", coarse,
        ", got ", thresholds_.size(), ": ", show(thresholds_));
  for (const double threshold : thresholds_) {
    // False for a NaN, too.
    check(name(), threshold >= 0.0, "thresholds must be 0 or more, got ", show(thresholds_));
  }
}

int64_t PatchScheduler::rule(const std::vector<double>& sample_scores) const {
  return largest_below(scales(), sample_scores, thresholds_);
}

std::string PatchScheduler::repr() const {
  std::ostringstream text;
  text << "PatchScheduler(scales=" << show(scales()) << ", thresholds=" << show(thresholds_)
       << describe_options();
  return text.str();
}

}  // namespace ddit

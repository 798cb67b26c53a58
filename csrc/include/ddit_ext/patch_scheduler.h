// The paper's rule: scores against thresholds. Free of torch and Python; ddit_ext.PatchScheduler is this
// class.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ddit_ext/signal_policy.h"

namespace ddit {

// A step takes the largest scale whose score is below that scale's threshold, else the base scale 1. A batch
// takes the finest choice of its samples. A step without a signal is at the base scale, unless the options
// say otherwise.
class PatchScheduler : public SignalPolicy {
 public:
  // scales: 1 first, then increasing. thresholds: one per scale > 1, in the same order.
  // protect_last > 0 needs the length of the run at begin().
  PatchScheduler(std::vector<int64_t> scales, std::vector<double> thresholds, int64_t protect_first = 0,
                 int64_t protect_last = 0, SignalOptions options = {});

  const std::vector<double>& thresholds() const { return thresholds_; }

  std::unique_ptr<Policy> clone() const override { return std::make_unique<PatchScheduler>(*this); }
  std::string repr() const override;

 protected:
  int64_t rule(const std::vector<double>& sample_scores) const override;

 private:
  std::vector<double> thresholds_;
};

}  // namespace ddit

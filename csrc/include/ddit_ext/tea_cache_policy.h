// TeaCache's rule (Liu et al., CVPR 2025, arXiv 2411.19108): skip steps while the model's input hardly
// changes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ddit_ext/run_policy.h"

namespace ddit {

// The score of a sample is one number, its relative change: mean |x_t - x_{t-1}| / mean |x_{t-1}|, of what
// goes into the model's first block at a step and at the one before. A polynomial, fitted to how much the
// model's output changes, rescales it, and the results are summed up from one computed step to the next. A
// sum below `threshold` skips the step; else the step is computed, at the largest scale whose own threshold
// the sum is below, or at 1. A batch does the most that one of its samples needs.
//
// Without a score the step is computed at 1: give none where nothing is kept that could be used again.
class TeaCachePolicy : public RunPolicy {
 public:
  // threshold: 0 skips nothing. thresholds: one per scale > 1, in the same order, none below `threshold`.
  // coefficients: of the polynomial, the highest power first; {1, 0} leaves the change as it is.
  explicit TeaCachePolicy(double threshold, std::vector<int64_t> scales = {1},
                          std::vector<double> thresholds = {}, std::vector<double> coefficients = {1.0, 0.0},
                          int64_t protect_first = 1, int64_t protect_last = 1);

  double threshold() const { return threshold_; }
  const std::vector<double>& thresholds() const { return thresholds_; }
  const std::vector<double>& coefficients() const { return coefficients_; }
  // The sum of each sample since the last computed step; empty where that was this one.
  const std::vector<double>& accumulated() const { return accumulated_; }

  bool needs_signal() const override { return skips() || scales().size() > 1; }
  bool skips() const override { return threshold_ > 0.0; }
  std::unique_ptr<Policy> clone() const override { return std::make_unique<TeaCachePolicy>(*this); }
  std::string repr() const override;

 protected:
  void plan(int64_t total_steps) override;
  void check_scores(const Scores& scores) const override;
  int64_t choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) override;
  void took(int64_t scale) override;

 private:
  double rescaled(double change) const;
  int64_t rule(double accumulated) const;

  double threshold_;
  std::vector<double> thresholds_;
  std::vector<double> coefficients_;
  std::vector<double> accumulated_;
};

}  // namespace ddit

// A run that ends on budget: how fast it is is given, where it is fine follows the scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ddit_ext/signal_policy.h"

namespace ddit {

// The budget is total_steps / target_speedup, in steps at the base scale. Each step compares its scores with
// one threshold for all scales, chosen anew: the one at which the steps still to come would use up what is
// left. What scores they will have is read from `reference`, or else taken to be as those seen so far.
//
// The cost of a run (protected steps included) never exceeds the budget, and falls short of it by less than
// what one step can save. That comes before only_finer, warmup_scale and held steps. Steps without
// a signal are at the largest scale, as long as the rest can still use up the budget: at the start of a run
// coarse steps cost the least quality.
class BudgetPolicy : public SignalPolicy {
 public:
  // costs: of a step at each scale > 1, in units of one at the base scale; below 1 and falling.
  // reference: the scores [step][scale] of a run like those to come, of any length (empty: none); a factor
  // between its scores and those of a run is found during the run.
  BudgetPolicy(std::vector<int64_t> scales, std::vector<double> costs, double target_speedup,
               int64_t protect_first = 0, int64_t protect_last = 0, SignalOptions options = {},
               Scores reference = {});

  // Better known costs, also in the middle of a run: the steps that were decided are counted by them, too. If
  // the target is out of reach by them, the rest of the run is at the largest scale.
  void revise(const std::vector<double>& costs);

  // One per scale, that of the base scale (1) included.
  const std::vector<double>& costs() const { return costs_; }
  double target_speedup() const { return target_speedup_; }
  const Scores& reference() const { return reference_; }
  // The threshold of the last step that had a signal; 0 before.
  double threshold() const { return threshold_; }
  // Cost of the decisions of this run so far.
  double spent() const { return spent_; }

  std::unique_ptr<Policy> clone() const override { return std::make_unique<BudgetPolicy>(*this); }
  std::string repr() const override;

 protected:
  void plan(int64_t total_steps) override;
  void check_step(int64_t /*step*/) const override { check_begun(); }
  void prepare(int64_t step, const Scores& scores) override;
  int64_t rule(const std::vector<double>& sample_scores) const override;
  int64_t without_signal() const override { return scales().back(); }
  int64_t limited(int64_t step, int64_t scale) const override;
  void took(int64_t scale) override;

 private:
  void set_costs(const std::vector<double>& costs);
  double cost(int64_t scale) const;
  size_t index(int64_t scale) const;
  double left(int64_t step) const;        // of the budget, for the unprotected steps from `step` on
  int64_t remaining(int64_t step) const;  // those steps
  const std::vector<double>& expected(int64_t step) const;
  double threshold_for(const Scores& rows, double factor, double mean_cost) const;

  std::vector<double> costs_;
  double target_speedup_;
  Scores reference_;

  double budget_ = 0.0;
  double spent_ = 0.0;
  std::vector<int64_t> taken_;  // steps of this run at each scale
  double threshold_ = 0.0;
  Scores seen_;             // one row a step that had a signal: the largest of its samples' scores
  double log_ratio_ = 0.0;  // sum of log(score / reference) over `compared_` scores of this run
  int64_t compared_ = 0;
};

}  // namespace ddit

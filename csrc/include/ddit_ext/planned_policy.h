// Policies without a signal: the sizes of a run are known when it begins.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ddit_ext/run_policy.h"

namespace ddit {

class PlannedPolicy : public RunPolicy {
 public:
  bool needs_signal() const override { return false; }

 protected:
  using RunPolicy::RunPolicy;

  int64_t choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) override;
  std::string describe() const;  // ", protect_first=..., protect_last=...)"

  std::vector<int64_t> sizes_;  // one a step of the run
};

// One scale for all steps, or a list of one scale a step (it may be longer than the run, not shorter). In a
// list kSkip stands for a step that is skipped; the first can't be.
class FixedSchedule : public PlannedPolicy {
 public:
  FixedSchedule(std::vector<int64_t> scales, int64_t schedule, int64_t protect_first = 0,
                int64_t protect_last = 0);
  FixedSchedule(std::vector<int64_t> scales, std::vector<int64_t> schedule, int64_t protect_first = 0,
                int64_t protect_last = 0);

  // As given: one entry for all steps where is_constant().
  const std::vector<int64_t>& schedule() const { return sizes_; }
  bool is_constant() const { return constant_; }
  bool skips() const override;

  std::unique_ptr<Policy> clone() const override { return std::make_unique<FixedSchedule>(*this); }
  std::string repr() const override;

 protected:
  void plan(int64_t total_steps) override;
  void check_step(int64_t step) const override;
  int64_t choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) override;

 private:
  bool constant_ = false;
};

// Coarse at the start, fine at the end: coarse_share of the run's steps are coarse, in equal stretches from
// the largest scale down. Protected steps count as fine and move the stretches, not their length.
class LinearRamp : public PlannedPolicy {
 public:
  LinearRamp(std::vector<int64_t> scales, double coarse_share, int64_t protect_first = 0,
             int64_t protect_last = 0);

  double coarse_share() const { return coarse_share_; }

  std::unique_ptr<Policy> clone() const override { return std::make_unique<LinearRamp>(*this); }
  std::string repr() const override;

 protected:
  LinearRamp(const char* name, std::vector<int64_t> scales, double coarse_share, int64_t protect_first,
             int64_t protect_last);
  void plan(int64_t total_steps) override;
  void check_step(int64_t /*step*/) const override { check_begun(); }

 private:
  double coarse_share_;
};

// A control for experiments: the steps of the LinearRamp with the same arguments, in an order drawn from
// `seed`; the same on every machine. Protected steps stay where they are.
class RandomSchedule : public LinearRamp {
 public:
  RandomSchedule(std::vector<int64_t> scales, double coarse_share, uint64_t seed = 0,
                 int64_t protect_first = 0, int64_t protect_last = 0);

  uint64_t seed() const { return seed_; }

  std::unique_ptr<Policy> clone() const override { return std::make_unique<RandomSchedule>(*this); }
  std::string repr() const override;

 protected:
  void plan(int64_t total_steps) override;

 private:
  uint64_t seed_;
};

// The share of coarse steps, each coarse scale as often as the other, at which a run costs 1 / target_speedup
// of one at the base scale. costs: of a step at each scale > 1, in units of one at the base scale.
double coarse_share(const std::vector<double>& costs, double target_speedup);

}  // namespace ddit

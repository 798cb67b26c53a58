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

}  // namespace ddit

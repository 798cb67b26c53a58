#include "ddit_ext/run_policy.h"

#include <algorithm>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {

RunPolicy::RunPolicy(const char* name, std::vector<int64_t> scales, int64_t protect_first,
                     int64_t protect_last)
    : name_(name), scales_(std::move(scales)), protect_first_(protect_first), protect_last_(protect_last) {
  check(name_, !scales_.empty(), "scales must start with the base scale 1, got []");
  check(name_, scales_.front() == 1, "scales must start with the base scale 1, got ", show(scales_));
  for (size_t i = 1; i < scales_.size(); ++i) {
    check(name_, scales_[i - 1] < scales_[i], "scales must be increasing, got ", show(scales_));
  }
  check(name_, protect_first_ >= 0, "protect_first must be 0 or more, got ", protect_first_);
  check(name_, protect_last_ >= 0, "protect_last must be 0 or more, got ", protect_last_);
}

void RunPolicy::begin(int64_t total_steps) {
  check(name_, total_steps >= 0, "total_steps must be 0 (unknown) or more, got ", total_steps);
  check(name_, total_steps > 0 || protect_last_ == 0,
        "total_steps must be known where protect_last is set (to ", protect_last_, "), got 0");
  plan(total_steps);
  total_steps_ = total_steps;
  last_step_ = -1;
  last_scale_ = scales_.front();
  per_sample_.clear();
}

int64_t RunPolicy::decide(int64_t step, const Scores& scores) {
  check(name_, step >= 0, "step must be 0 or more, got ", step);
  check(name_, total_steps_ > 0 || protect_last_ == 0, "protect_last is ", protect_last_,
        ", so begin(total_steps) must come before decide");
  check(name_, total_steps_ == 0 || step < total_steps_, "step must be below total_steps = ", total_steps_,
        ", got ", step);
  check(name_, step >= last_step_, "step must not go back in a run: the last was ", last_step_, ", got ",
        step, " (begin() starts a new run)");
  if (step == last_step_) return last_scale_;
  check_step(step);
  check_scores(scores);

  // Nothing may throw between here and the end: a failed call leaves the run as it was.
  std::vector<int64_t> choices(needs_signal() ? scores.size() : 0, scales_.front());
  last_scale_ = is_protected(step) ? scales_.front() : choose(step, scores, choices);
  last_step_ = step;
  per_sample_ = std::move(choices);
  took(last_scale_);
  return last_scale_;
}

void RunPolicy::check_begun() const {
  check(name_, total_steps_ > 0, "begin(total_steps) must come before decide");
}

bool RunPolicy::is_protected(int64_t step, int64_t total_steps) const {
  return step < protect_first_ || (protect_last_ > 0 && step >= total_steps - protect_last_);
}

int64_t RunPolicy::protected_from(int64_t step, int64_t total_steps) const {
  int64_t count = 0;
  for (; step < total_steps; ++step) count += is_protected(step, total_steps);
  return count;
}

}  // namespace ddit

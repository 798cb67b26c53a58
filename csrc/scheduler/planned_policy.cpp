#include "ddit_ext/planned_policy.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

void check_scale(const std::vector<int64_t>& scales, int64_t scale, const std::string& where) {
  check("FixedSchedule", std::find(scales.begin(), scales.end(), scale) != scales.end(), where,
        ": expected one of the scales ", show(scales, "(", ")"), ", got ", scale);
}

}  // namespace

int64_t PlannedPolicy::choose(int64_t step, const Scores& /*scores*/, std::vector<int64_t>& /*choices*/) {
  return sizes_[static_cast<size_t>(step)];
}

std::string PlannedPolicy::describe() const {
  std::ostringstream text;
  text << ", protect_first=" << protect_first() << ", protect_last=" << protect_last() << ')';
  return text.str();
}

FixedSchedule::FixedSchedule(std::vector<int64_t> scales, int64_t schedule, int64_t protect_first,
                             int64_t protect_last)
    : PlannedPolicy("FixedSchedule", std::move(scales), protect_first, protect_last), constant_(true) {
  check_scale(this->scales(), schedule, "schedule");
  sizes_ = {schedule};
}

FixedSchedule::FixedSchedule(std::vector<int64_t> scales, std::vector<int64_t> schedule,
                             int64_t protect_first, int64_t protect_last)
    : PlannedPolicy("FixedSchedule", std::move(scales), protect_first, protect_last) {
  check(name(), !schedule.empty(), "schedule must hold one scale a step, got an empty list");
  check(name(), schedule.front() != kSkip,
        "schedule[0] must be a scale, got 0: the first step can't be skipped");
  for (size_t i = 0; i < schedule.size(); ++i) {
    if (schedule[i] != kSkip) check_scale(this->scales(), schedule[i], "schedule[" + std::to_string(i) + "]");
  }
  sizes_ = std::move(schedule);
}

bool FixedSchedule::skips() const { return std::find(sizes_.begin(), sizes_.end(), kSkip) != sizes_.end(); }

void FixedSchedule::plan(int64_t total_steps) {
  const int64_t entries = static_cast<int64_t>(sizes_.size());
  check(name(), constant_ || entries >= total_steps, "schedule has ", entries, " entries, but this run has ",
        total_steps, " steps: it needs one a step");
}

void FixedSchedule::check_step(int64_t step) const {
  const int64_t entries = static_cast<int64_t>(sizes_.size());
  check(name(), constant_ || step < entries, "schedule has ", entries,
        " entries, but the run has come to step ", step);
}

int64_t FixedSchedule::choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) {
  return constant_ ? sizes_.front() : PlannedPolicy::choose(step, scores, choices);
}

std::string FixedSchedule::repr() const {
  std::ostringstream text;
  text << "FixedSchedule(scales=" << show(scales())
       << ", schedule=" << (constant_ ? std::to_string(sizes_.front()) : show(sizes_)) << describe();
  return text.str();
}

}  // namespace ddit

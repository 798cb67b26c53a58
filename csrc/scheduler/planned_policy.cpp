#include "ddit_ext/planned_policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

void check_scale(const std::vector<int64_t>& scales, int64_t scale, const std::string& where) {
  check("FixedSchedule", std::find(scales.begin(), scales.end(), scale) != scales.end(), where,
        ": expected one of the scales ", show(scales, "(", ")"), ", got ", scale);
}

// SplitMix64 (Steele, Lea, Flood 2014): a few lines that are the same on every machine, which the
// distributions of <random> are not.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
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

LinearRamp::LinearRamp(std::vector<int64_t> scales, double coarse_share, int64_t protect_first,
                       int64_t protect_last)
    : LinearRamp("LinearRamp", std::move(scales), coarse_share, protect_first, protect_last) {}

LinearRamp::LinearRamp(const char* name, std::vector<int64_t> scales, double coarse_share,
                       int64_t protect_first, int64_t protect_last)
    : PlannedPolicy(name, std::move(scales), protect_first, protect_last), coarse_share_(coarse_share) {
  check(name, coarse_share >= 0.0 && coarse_share <= 1.0, "coarse_share must be in [0, 1], got ",
        coarse_share);
  check(name, coarse_share == 0.0 || this->scales().size() > 1,
        "scales must hold a scale > 1 where coarse_share is not 0, got ", show(this->scales()));
}

void LinearRamp::plan(int64_t total_steps) {
  check(name(), total_steps > 0, "total_steps must be known to place the coarse steps, got 0");
  const int64_t free_steps = total_steps - protected_from(0, total_steps);
  const int64_t coarse =
      std::min<int64_t>(free_steps, std::llround(coarse_share_ * static_cast<double>(total_steps)));
  const int64_t sizes = static_cast<int64_t>(scales().size()) - 1;
  std::vector<int64_t> planned;
  int64_t placed = 0;
  for (int64_t step = 0; step < total_steps; ++step) {
    const bool fine = is_protected(step, total_steps) || placed == coarse;
    planned.push_back(fine ? scales().front()
                           : scales()[static_cast<size_t>(sizes - placed * sizes / coarse)]);
    placed += !fine;
  }
  sizes_ = std::move(planned);
}

std::string LinearRamp::repr() const {
  std::ostringstream text;
  text << "LinearRamp(scales=" << show(scales()) << ", coarse_share=" << coarse_share_ << describe();
  return text.str();
}

RandomSchedule::RandomSchedule(std::vector<int64_t> scales, double coarse_share, uint64_t seed,
                               int64_t protect_first, int64_t protect_last)
    : LinearRamp("RandomSchedule", std::move(scales), coarse_share, protect_first, protect_last),
      seed_(seed) {}

void RandomSchedule::plan(int64_t total_steps) {
  LinearRamp::plan(total_steps);
  std::vector<size_t> free_steps;
  for (int64_t step = 0; step < total_steps; ++step) {
    if (!is_protected(step, total_steps)) free_steps.push_back(static_cast<size_t>(step));
  }
  uint64_t state = seed_;
  for (size_t left = free_steps.size(); left > 1; --left) {  // Fisher and Yates
    const size_t other = static_cast<size_t>(next_random(state) % left);
    std::swap(sizes_[free_steps[left - 1]], sizes_[free_steps[other]]);
  }
}

std::string RandomSchedule::repr() const {
  std::ostringstream text;
  text << "RandomSchedule(scales=" << show(scales()) << ", coarse_share=" << coarse_share()
       << ", seed=" << seed_ << describe();
  return text.str();
}

double coarse_share(const std::vector<double>& costs, double target_speedup) {
  const char* name = "coarse_share";
  check(name, !costs.empty(), "costs must hold one number per scale > 1, got []");
  for (const double cost : costs) {
    check(name, cost > 0.0 && cost < 1.0, "costs must be between 0 and 1, got ", show(costs));
  }
  const double mean = std::accumulate(costs.begin(), costs.end(), 0.0) / static_cast<double>(costs.size());
  check(name, target_speedup >= 1.0 && target_speedup * mean <= 1.0, "target_speedup must be in [1, ",
        1.0 / mean, "] with costs ", show(costs), ", got ", target_speedup);
  return (1.0 - 1.0 / target_speedup) / (1.0 - mean);
}

}  // namespace ddit

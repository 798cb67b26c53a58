#include "ddit_ext/budget_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

constexpr double kRounding = 1e-9;  // of sums of costs, in steps

// The largest over samples, scale by scale: a batch is as coarse as its finest sample. A NaN is coarse
// enough for nothing.
std::vector<double> largest_scores(const Scores& scores) {
  std::vector<double> largest(scores.front().size(), 0.0);
  for (const std::vector<double>& sample : scores) {
    for (size_t i = 0; i < sample.size(); ++i) {
      largest[i] =
          std::isnan(sample[i]) ? std::numeric_limits<double>::infinity() : std::max(largest[i], sample[i]);
    }
  }
  return largest;
}

}  // namespace

BudgetPolicy::BudgetPolicy(std::vector<int64_t> scales, std::vector<double> costs, double target_speedup,
                           int64_t protect_first, int64_t protect_last, SignalOptions options,
                           Scores reference)
    : SignalPolicy("BudgetPolicy", std::move(scales), protect_first, protect_last, options),
      target_speedup_(target_speedup),
      reference_(std::move(reference)) {
  set_costs(costs);
  taken_.assign(costs_.size(), 0);
  check(name(), target_speedup >= 1.0 && target_speedup * costs_.back() <= 1.0 + kRounding,
        "target_speedup must be in [1, ", 1.0 / costs_.back(), "] with costs ", show(costs), ", got ",
        target_speedup);
  for (size_t i = 0; i < reference_.size(); ++i) {
    const std::vector<double>& row = reference_[i];
    check(name(), row.size() == this->scales().size(), "reference must hold one number per scale, here ",
          this->scales().size(), ", a step, got ", row.size(), " for step ", i, ": ", show(row));
    for (const double score : row) {
      check(name(), score >= 0.0, "reference must hold scores of 0 or more, got ", show(row), " for step ",
            i);
    }
  }
}

void BudgetPolicy::set_costs(const std::vector<double>& costs) {
  const size_t coarse = scales().size() - 1;
  check(name(), coarse > 0, "scales must hold a scale > 1, got ", show(scales()));
  check(name(), costs.size() == coarse, "costs must hold one number per scale > 1, here ", coarse, ", got ",
        costs.size(), ": ", show(costs));
  double before = 1.0;
  for (const double cost : costs) {
    check(name(), cost > 0.0 && cost < before,
          "costs must be above 0, below 1 and falling from scale to scale, got ", show(costs));
    before = cost;
  }
  costs_ = {1.0};
  costs_.insert(costs_.end(), costs.begin(), costs.end());
}

void BudgetPolicy::revise(const std::vector<double>& costs) {
  set_costs(costs);
  spent_ = 0.0;
  for (size_t i = 0; i < costs_.size(); ++i) spent_ += static_cast<double>(taken_[i]) * costs_[i];
}

void BudgetPolicy::plan(int64_t total_steps) {
  check(name(), total_steps > 0, "total_steps must be known to keep a budget, got 0");
  const double total = static_cast<double>(total_steps);
  const double fine = static_cast<double>(protected_from(0, total_steps));
  const double least = fine + (total - fine) * costs_.back();
  check(name(), total / target_speedup_ >= least - kRounding, "target_speedup ", target_speedup_,
        " is out of reach in ", total_steps, " steps of which ", fine, " are protected: at most ",
        total / least);
  SignalPolicy::plan(total_steps);
  budget_ = total / target_speedup_;
  spent_ = 0.0;
  taken_.assign(costs_.size(), 0);
  threshold_ = 0.0;
  seen_.clear();
  log_ratio_ = 0.0;
  compared_ = 0;
}

void BudgetPolicy::prepare(int64_t step, const Scores& scores) {
  seen_.push_back(largest_scores(scores));
  const std::vector<double>& now = seen_.back();
  const double mean_cost = left(step) / static_cast<double>(remaining(step));
  if (reference_.empty()) {
    threshold_ = threshold_for(seen_, 1.0, mean_cost);
    return;
  }
  for (size_t i = 1; i < now.size(); ++i) {
    const double ratio = now[i] / expected(step)[i];
    if (!(ratio > 0.0) || !std::isfinite(ratio)) continue;
    log_ratio_ += std::log(ratio);
    ++compared_;
  }
  Scores rows;
  for (int64_t later = step; later < total_steps(); ++later) {
    if (!is_protected(later)) rows.push_back(expected(later));
  }
  const double factor = compared_ ? std::exp(log_ratio_ / static_cast<double>(compared_)) : 1.0;
  threshold_ = threshold_for(rows, factor, mean_cost);
}

int64_t BudgetPolicy::rule(const std::vector<double>& sample_scores) const {
  return largest_below(scales(), sample_scores, std::vector<double>(scales().size() - 1, threshold_));
}

int64_t BudgetPolicy::limited(int64_t step, int64_t scale) const {
  // In units of what is left above a rest at the largest scale: this step may take at most all of it, and
  // has to take what the rest at the base scale couldn't.
  const double cheapest = costs_.back();
  const double rest = static_cast<double>(remaining(step)) - 1.0;
  const double most = left(step) - cheapest * (rest + 1.0) + kRounding;
  const double least = most - (1.0 - cheapest) * rest - 2.0 * kRounding;
  const double wanted = cost(scale);
  size_t nearest = costs_.size();
  for (size_t i = 0; i < costs_.size(); ++i) {
    const double more = costs_[i] - cheapest;
    if (more > most || more < least) continue;
    if (nearest == costs_.size() || std::abs(costs_[i] - wanted) < std::abs(costs_[nearest] - wanted)) {
      nearest = i;
    }
  }
  if (nearest < costs_.size()) return scales()[nearest];
  // The last step meets the budget only by chance: as fine as it allows.
  for (size_t i = 0; i < costs_.size(); ++i) {
    if (costs_[i] - cheapest <= most) return scales()[i];
  }
  return scales().back();
}

void BudgetPolicy::took(int64_t scale) {
  spent_ += cost(scale);
  ++taken_[index(scale)];
}

double BudgetPolicy::cost(int64_t scale) const { return costs_[index(scale)]; }

size_t BudgetPolicy::index(int64_t scale) const {
  return static_cast<size_t>(std::lower_bound(scales().begin(), scales().end(), scale) - scales().begin());
}

double BudgetPolicy::left(int64_t step) const {
  return budget_ - spent_ - static_cast<double>(protected_from(step, total_steps()));
}

int64_t BudgetPolicy::remaining(int64_t step) const {
  return total_steps() - step - protected_from(step, total_steps());
}

const std::vector<double>& BudgetPolicy::expected(int64_t step) const {
  const int64_t length = static_cast<int64_t>(reference_.size());
  return reference_[static_cast<size_t>((2 * step + 1) * length / (2 * total_steps()))];
}

double BudgetPolicy::threshold_for(const Scores& rows, double factor, double mean_cost) const {
  std::vector<double> candidates;
  for (const std::vector<double>& row : rows) candidates.insert(candidates.end(), row.begin() + 1, row.end());
  std::sort(candidates.begin(), candidates.end());
  const double infinity = std::numeric_limits<double>::infinity();
  // The smallest threshold with runs that are cheap enough: just above one of the scores, or none needed.
  const auto above = [&](double score) { return std::nextafter(score * factor, infinity); };
  const auto cheap_enough = [&](double threshold) {
    const std::vector<double> thresholds(scales().size() - 1, threshold);
    double sum = 0.0;
    for (std::vector<double> row : rows) {
      for (double& score : row) score *= factor;
      sum += cost(largest_below(scales(), row, thresholds));
    }
    return sum <= mean_cost * static_cast<double>(rows.size()) + kRounding;
  };
  if (cheap_enough(0.0)) return 0.0;
  const auto found = std::partition_point(candidates.begin(), candidates.end(),
                                          [&](double score) { return !cheap_enough(above(score)); });
  return found == candidates.end() ? infinity : above(*found);
}

std::string BudgetPolicy::repr() const {
  std::ostringstream text;
  text << "BudgetPolicy(scales=" << show(scales())
       << ", costs=" << show(std::vector<double>(costs_.begin() + 1, costs_.end()))
       << ", target_speedup=" << target_speedup_;
  if (!reference_.empty()) text << ", reference=" << reference_.size() << " steps";
  text << describe_options();
  return text.str();
}

}  // namespace ddit

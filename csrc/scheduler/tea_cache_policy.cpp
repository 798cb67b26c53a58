#include "ddit_ext/tea_cache_policy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {

TeaCachePolicy::TeaCachePolicy(double threshold, std::vector<int64_t> scales, std::vector<double> thresholds,
                               std::vector<double> coefficients, int64_t protect_first, int64_t protect_last)
    : RunPolicy("TeaCachePolicy", std::move(scales), protect_first, protect_last),
      threshold_(threshold),
      thresholds_(std::move(thresholds)),
      coefficients_(std::move(coefficients)) {
  // A comparison with a NaN is false.
  check(name(), threshold_ >= 0.0, "threshold must be 0 or more, got ", threshold_);
  const size_t coarse = this->scales().size() - 1;
  check(name(), thresholds_.size() == coarse, "thresholds must hold one number per scale > 1, here ", coarse,
        ", got ", thresholds_.size(), ": ", show(thresholds_));
  for (const double above : thresholds_) {
    check(name(), above >= threshold_, "thresholds must not be below threshold = ", threshold_,
          ", under which steps are skipped, got ", show(thresholds_));
  }
  check(name(), !coefficients_.empty(), "coefficients must hold those of a polynomial, got []");
  for (const double coefficient : coefficients_) {
    check(name(), std::isfinite(coefficient), "coefficients must be finite, got ", show(coefficients_));
  }
}

void TeaCachePolicy::plan(int64_t /*total_steps*/) { accumulated_.clear(); }

void TeaCachePolicy::check_scores(const Scores& scores) const {
  for (size_t i = 0; i < scores.size(); ++i) {
    check(name(), scores[i].size() == 1,
          "scores must hold one number, the relative change, for each sample, got ", scores[i].size(),
          " for sample ", i, ": ", show(scores[i]));
  }
  check(name(), scores.empty() || accumulated_.empty() || scores.size() == accumulated_.size(),
        "scores must hold as many samples as before in this run, ", accumulated_.size(), ", got ",
        scores.size());
}

int64_t TeaCachePolicy::choose(int64_t /*step*/, const Scores& scores, std::vector<int64_t>& choices) {
  if (scores.empty() || !needs_signal()) return scales().front();
  accumulated_.resize(scores.size(), 0.0);
  int64_t finest = kSkip;
  for (size_t i = 0; i < scores.size(); ++i) {
    accumulated_[i] += rescaled(scores[i].front());
    choices[i] = rule(accumulated_[i]);
    if (choices[i] != kSkip) finest = finest == kSkip ? choices[i] : std::min(finest, choices[i]);
  }
  return finest;
}

void TeaCachePolicy::took(int64_t scale) {
  if (scale != kSkip) accumulated_.clear();
}

double TeaCachePolicy::rescaled(double change) const {
  double value = 0.0;
  for (const double coefficient : coefficients_) value = value * change + coefficient;
  return value;
}

int64_t TeaCachePolicy::rule(double accumulated) const {
  // A polynomial may be negative where it was not fitted: a threshold of 0 still skips nothing.
  if (skips() && accumulated < threshold_) return kSkip;
  for (size_t i = thresholds_.size(); i > 0; --i) {
    if (accumulated < thresholds_[i - 1]) return scales()[i];
  }
  return scales().front();
}

std::string TeaCachePolicy::repr() const {
  std::ostringstream text;
  text << "TeaCachePolicy(threshold=" << threshold_ << ", scales=" << show(scales())
       << ", thresholds=" << show(thresholds_) << ", coefficients=" << show(coefficients_)
       << ", protect_first=" << protect_first() << ", protect_last=" << protect_last() << ')';
  return text.str();
}

}  // namespace ddit

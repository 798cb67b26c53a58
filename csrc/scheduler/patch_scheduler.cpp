#include "ddit_ext/patch_scheduler.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace ddit {
namespace {

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "PatchScheduler: ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class T>
std::string show(const std::vector<T>& values) {
  std::ostringstream text;
  text << '[';
  for (size_t i = 0; i < values.size(); ++i) text << (i ? ", " : "") << values[i];
  text << ']';
  return text.str();
}

}  // namespace

PatchScheduler::PatchScheduler(std::vector<int64_t> scales, std::vector<double> thresholds,
                               int64_t protect_first, int64_t protect_last)
    : scales_(std::move(scales)),
      thresholds_(std::move(thresholds)),
      protect_first_(protect_first),
      protect_last_(protect_last) {
  check(!scales_.empty(), "scales must start with the base scale 1, got []");
  check(scales_.front() == 1, "scales must start with the base scale 1, got ", show(scales_));
  for (size_t i = 1; i < scales_.size(); ++i) {
    check(scales_[i - 1] < scales_[i], "scales must be increasing, got ", show(scales_));
  }
  check(thresholds_.size() + 1 == scales_.size(), "thresholds must hold one number per scale > 1, here ",
        scales_.size() - 1, ", got ", thresholds_.size(), ": ", show(thresholds_));
  for (const double threshold : thresholds_) {
    check(threshold >= 0.0, "thresholds must be 0 or more, got ", show(thresholds_));  // false for a NaN, too
  }
  check(protect_first_ >= 0, "protect_first must be 0 or more, got ", protect_first_);
  check(protect_last_ >= 0, "protect_last must be 0 or more, got ", protect_last_);
}

void PatchScheduler::begin(int64_t total_steps) {
  check(total_steps >= 0, "total_steps must be 0 (unknown) or more, got ", total_steps);
  check(total_steps > 0 || protect_last_ == 0, "total_steps must be known where protect_last is set (to ",
        protect_last_, "), got 0");
  total_steps_ = total_steps;
  last_step_ = -1;
  last_scale_ = scales_.front();
  per_sample_.clear();
}

int64_t PatchScheduler::decide(int64_t step, const std::vector<std::vector<double>>& scores) {
  check(step >= 0, "step must be 0 or more, got ", step);
  check(total_steps_ > 0 || protect_last_ == 0, "protect_last is ", protect_last_,
        ", so begin(total_steps) must come before decide");
  check(total_steps_ == 0 || step < total_steps_, "step must be below total_steps = ", total_steps_, ", got ",
        step);
  check(step >= last_step_, "step must not go back in a run: the last was ", last_step_, ", got ", step,
        " (begin() starts a new run)");
  if (step == last_step_) return last_scale_;

  for (size_t i = 0; i < scores.size(); ++i) {
    check(scores[i].size() == scales_.size(), "scores must hold one number per scale, here ", scales_.size(),
          ", for each sample, got ", scores[i].size(), " for sample ", i, ": ", show(scores[i]));
  }
  // Nothing may throw between here and the end: a failed call leaves the run as it was.
  std::vector<int64_t> choices(scores.size(), scales_.front());
  if (!is_protected(step)) {
    std::transform(scores.begin(), scores.end(), choices.begin(),
                   [this](const std::vector<double>& sample) { return choose(sample); });
  }
  last_scale_ = choices.empty() ? scales_.front() : *std::min_element(choices.begin(), choices.end());
  last_step_ = step;
  per_sample_ = std::move(choices);
  return last_scale_;
}

bool PatchScheduler::is_protected(int64_t step) const {
  return step < protect_first_ || (protect_last_ > 0 && step >= total_steps_ - protect_last_);
}

int64_t PatchScheduler::choose(const std::vector<double>& sample_scores) const {
  for (size_t i = scales_.size() - 1; i > 0; --i) {
    if (sample_scores[i] < thresholds_[i - 1]) return scales_[i];
  }
  return scales_.front();
}

std::string PatchScheduler::repr() const {
  std::ostringstream text;
  text << "PatchScheduler(scales=" << show(scales_) << ", thresholds=" << show(thresholds_)
       << ", protect_first=" << protect_first_ << ", protect_last=" << protect_last_ << ')';
  return text.str();
}

}  // namespace ddit

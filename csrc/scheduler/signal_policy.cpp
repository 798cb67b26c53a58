#include "ddit_ext/signal_policy.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {

SignalPolicy::SignalPolicy(const char* name, std::vector<int64_t> scales, int64_t protect_first,
                           int64_t protect_last, SignalOptions options)
    : RunPolicy(name, std::move(scales), protect_first, protect_last), options_(options) {
  const std::vector<int64_t>& known = this->scales();
  const int64_t warmup = options_.warmup_scale.value_or(known.front());
  check(name, std::find(known.begin(), known.end(), warmup) != known.end(),
        "warmup_scale must be one of the scales ", show(known), ", got ", warmup);
}

void SignalPolicy::plan(int64_t /*total_steps*/) { chosen_ = 0; }

void SignalPolicy::check_scores(const Scores& scores) const {
  for (size_t i = 0; i < scores.size(); ++i) {
    check(name(), scores[i].size() == scales().size(), "scores must hold one number per scale, here ",
          scales().size(), ", for each sample, got ", scores[i].size(), " for sample ", i, ": ",
          show(scores[i]));
  }
}

int64_t SignalPolicy::choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) {
  if (scores.empty()) {
    const bool hold = options_.mixed == SignalOptions::Mixed::kHold && chosen_ > 0;
    const bool warmup = chosen_ == 0 && options_.warmup_scale.has_value();
    const int64_t held = hold ? chosen_ : warmup ? *options_.warmup_scale : without_signal();
    return limited(step, held);
  }
  prepare(step, scores);
  std::transform(scores.begin(), scores.end(), choices.begin(),
                 [this](const std::vector<double>& sample) { return rule(sample); });
  int64_t scale = *std::min_element(choices.begin(), choices.end());
  if (options_.only_finer && chosen_ > 0) scale = std::min(scale, chosen_);
  chosen_ = limited(step, scale);
  return chosen_;
}

std::string SignalPolicy::describe_options() const {
  std::ostringstream text;
  text << ", protect_first=" << protect_first() << ", protect_last=" << protect_last();
  if (options_.warmup_scale) text << ", warmup_scale=" << *options_.warmup_scale;
  if (options_.only_finer) text << ", only_finer=True";
  if (options_.mixed == SignalOptions::Mixed::kHold) text << ", mixed='hold'";
  text << ')';
  return text.str();
}

int64_t largest_below(const std::vector<int64_t>& scales, const std::vector<double>& scores,
                      const std::vector<double>& thresholds) {
  for (size_t i = scales.size() - 1; i > 0; --i) {
    if (scores[i] < thresholds[i - 1]) return scales[i];
  }
  return scales.front();
}

}  // namespace ddit

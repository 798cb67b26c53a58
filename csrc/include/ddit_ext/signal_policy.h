// Policies that look at the scores, and the options that all of them have.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ddit_ext/run_policy.h"

namespace ddit {

struct SignalOptions {
  // The scale of the steps before the first signal of a run. Nothing: the policy's own choice.
  std::optional<int64_t> warmup_scale;
  // A run never goes back to a larger scale once a signal has made it smaller.
  bool only_finer = false;

  // Differences between steps of two scales hold the error of the larger one. kUse: they are scored as they
  // are, as in the paper. kHold: they are left out (no scores are given), and a step without scores after
  // the first signal keeps the last scale.
  enum class Mixed { kUse, kHold } mixed = Mixed::kUse;
};

class SignalPolicy : public RunPolicy {
 public:
  bool needs_signal() const override { return true; }
  const SignalOptions& options() const { return options_; }

 protected:
  SignalPolicy(const char* name, std::vector<int64_t> scales, int64_t protect_first, int64_t protect_last,
               SignalOptions options);

  // The scale for one sample's scores. `prepare` is called before, once a step that has a signal.
  virtual void prepare(int64_t /*step*/, const Scores& /*scores*/) {}
  virtual int64_t rule(const std::vector<double>& sample_scores) const = 0;
  // The scale of a step without a signal where no option says it.
  virtual int64_t without_signal() const { return scales().front(); }
  // The last word on a step that is not protected.
  virtual int64_t limited(int64_t /*step*/, int64_t scale) const { return scale; }

  void plan(int64_t total_steps) override;
  void check_scores(const Scores& scores) const override;
  int64_t choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) override;
  std::string describe_options() const;

 private:
  SignalOptions options_;
  int64_t chosen_ = 0;  // by the last signal, 0: none yet in this run
};

// The largest scale whose score is below its threshold, else the first scale. A NaN is below no threshold.
int64_t largest_below(const std::vector<int64_t>& scales, const std::vector<double>& scores,
                      const std::vector<double>& thresholds);

}  // namespace ddit

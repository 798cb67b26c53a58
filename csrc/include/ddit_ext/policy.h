// What decides the patch scale of every denoising step. Free of torch and Python.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ddit {

// scores[sample][scale], one number per entry of Policy::scales(), unless a policy says otherwise. No
// samples: there is no signal.
using Scores = std::vector<std::vector<double>>;

// In place of a scale: the step is not computed, what the model did at the last computed steps is used again.
inline constexpr int64_t kSkip = 0;

// One object serves one run at a time: begin(), then decide() once a step. All errors are
// std::invalid_argument (ValueError in Python) that name the argument, and leave the object as it was.
class Policy {
 public:
  virtual ~Policy() = default;

  // A new run of total_steps steps; 0 where the length is unknown, which not every policy allows. A new
  // object stands at the begin of a run of unknown length.
  virtual void begin(int64_t total_steps = 0) = 0;

  // The scale of a step. Steps count from 0, may be skipped but not go back; asked again for the same step,
  // the answer is the same, whatever `scores`: guidance calls a model twice a step.
  virtual int64_t decide(int64_t step, const Scores& scores) = 0;

  // What each sample would have taken by itself at the last decision. Empty before the first decision of a
  // run, and where there was no signal.
  virtual const std::vector<int64_t>& per_sample() const = 0;

  // Whether scores make a difference: without, nobody has to compute them.
  virtual bool needs_signal() const = 0;

  // All that a decision may be: 1 first, then increasing; and kSkip, where the policy skips().
  virtual const std::vector<int64_t>& scales() const = 0;

  // Whether a decision may be kSkip: who runs the model has to keep what the next step may use again.
  virtual bool skips() const { return false; }

  // The same policy at the same point of its run; from here on the two go their own ways.
  virtual std::unique_ptr<Policy> clone() const = 0;

  virtual std::string repr() const = 0;

 protected:
  Policy() = default;
  Policy(const Policy&) = default;
  Policy& operator=(const Policy&) = default;
};

}  // namespace ddit

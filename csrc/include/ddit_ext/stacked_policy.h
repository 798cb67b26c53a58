// Two policies, each with scores of its own: one skips steps, the other sizes those that are not skipped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ddit_ext/policy.h"
#include "ddit_ext/tea_cache_policy.h"

namespace ddit {

// A step asks skipped() first, with how much the model's input has changed, and where it is not skipped
// decide(), with the scores that `sizes` wants. `sizes` is not asked at a skipped step, and a budget counts
// none: what skipped steps save goes to the others. Who keeps a LatentHistory pushes latents of skipped
// steps, too, and tells no scale for them.
class StackedPolicy : public Policy {
 public:
  // skip: with no scale but 1. sizes: of any class that skips nothing; a copy of it is kept.
  StackedPolicy(TeaCachePolicy skip, const RunPolicy& sizes);
  StackedPolicy(const StackedPolicy& other);
  StackedPolicy& operator=(const StackedPolicy&) = delete;

  const TeaCachePolicy& skip() const { return skip_; }
  const RunPolicy& sizes() const { return *sizes_; }

  // A new run of both; neither has begun where one refuses.
  void begin(int64_t total_steps = 0) override;
  // changes: as TeaCachePolicy::decide takes them; the rules of steps are the same. A step that one of the
  // two protects is not skipped.
  bool skipped(int64_t step, const Scores& changes);
  // The scale of a step that is not skipped.
  int64_t decide(int64_t step, const Scores& scores) override { return sizes_->decide(step, scores); }

  const std::vector<int64_t>& per_sample() const override { return sizes_->per_sample(); }
  // That of `sizes`; the changes are wanted where it skips().
  bool needs_signal() const override { return sizes_->needs_signal(); }
  const std::vector<int64_t>& scales() const override { return sizes_->scales(); }
  bool skips() const override { return skip_.skips(); }
  std::unique_ptr<Policy> clone() const override { return std::make_unique<StackedPolicy>(*this); }
  std::string repr() const override;

 private:
  TeaCachePolicy skip_;
  std::unique_ptr<RunPolicy> sizes_;
  int64_t total_steps_ = 0;
};

}  // namespace ddit

#include "ddit_ext/stacked_policy.h"

#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

// RunPolicy::clone() gives an object of the same class, which is a RunPolicy.
std::unique_ptr<RunPolicy> copy_of(const RunPolicy& policy) {
  return std::unique_ptr<RunPolicy>(static_cast<RunPolicy*>(policy.clone().release()));
}

}  // namespace

StackedPolicy::StackedPolicy(TeaCachePolicy skip, const RunPolicy& sizes)
    : skip_(std::move(skip)), sizes_(copy_of(sizes)) {
  check("StackedPolicy", skip_.scales().size() == 1,
        "skip must have no scales but [1], as sizes decides them, got ", show(skip_.scales()));
  const bool looks_at_input = dynamic_cast<const TeaCachePolicy*>(&sizes) != nullptr;
  check("StackedPolicy", !sizes.skips() && !looks_at_input,
        "sizes must skip no steps and not look at the input, got ", sizes.repr());
}

StackedPolicy::StackedPolicy(const StackedPolicy& other)
    : Policy(other), skip_(other.skip_), sizes_(copy_of(*other.sizes_)), total_steps_(other.total_steps_) {}

void StackedPolicy::begin(int64_t total_steps) {
  TeaCachePolicy begun = skip_;
  begun.begin(total_steps);
  sizes_->begin(total_steps);
  skip_ = std::move(begun);
  total_steps_ = total_steps;
}

bool StackedPolicy::skipped(int64_t step, const Scores& changes) {
  const bool fine = step < sizes_->protect_first() ||
                    (sizes_->protect_last() > 0 && step >= total_steps_ - sizes_->protect_last());
  return skip_.decide(step, fine ? Scores{} : changes) == kSkip;
}

std::string StackedPolicy::repr() const {
  return "StackedPolicy(skip=" + skip_.repr() + ", sizes=" + sizes_->repr() + ')';
}

}  // namespace ddit

// What all policies of this library share: the rules of a run's steps, and steps that are kept fine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ddit_ext/policy.h"

namespace ddit {

class RunPolicy : public Policy {
 public:
  void begin(int64_t total_steps = 0) override;
  int64_t decide(int64_t step, const Scores& scores) override;

  const std::vector<int64_t>& per_sample() const override { return per_sample_; }
  const std::vector<int64_t>& scales() const override { return scales_; }
  // The first protect_first and the last protect_last steps of a run are at the base scale, whatever the
  // scores.
  int64_t protect_first() const { return protect_first_; }
  int64_t protect_last() const { return protect_last_; }

 protected:
  // name: of the class, for error messages.
  RunPolicy(const char* name, std::vector<int64_t> scales, int64_t protect_first, int64_t protect_last);

  // At begin(), before anything of the last run is forgotten; may throw.
  virtual void plan(int64_t /*total_steps*/) {}
  // Before a decision; may throw.
  virtual void check_scores(const Scores& /*scores*/) const {}
  virtual void check_step(int64_t /*step*/) const {}
  // The scale of a step that is not protected; writes what each sample would have taken, if there are any.
  virtual int64_t choose(int64_t step, const Scores& scores, std::vector<int64_t>& choices) = 0;
  // After every decision, of protected steps too.
  virtual void took(int64_t /*scale*/) {}

  // For check_step of a policy that can't decide without the length of the run.
  void check_begun() const;

  const char* name() const { return name_; }
  int64_t total_steps() const { return total_steps_; }
  bool is_protected(int64_t step) const { return is_protected(step, total_steps_); }
  bool is_protected(int64_t step, int64_t total_steps) const;
  // How many of the steps from `step` on, of total_steps, are protected.
  int64_t protected_from(int64_t step, int64_t total_steps) const;

 private:
  const char* name_;
  std::vector<int64_t> scales_;
  int64_t protect_first_;
  int64_t protect_last_;

  int64_t total_steps_ = 0;
  int64_t last_step_ = -1;  // -1: no decision in this run yet
  int64_t last_scale_ = 1;
  std::vector<int64_t> per_sample_;
};

}  // namespace ddit

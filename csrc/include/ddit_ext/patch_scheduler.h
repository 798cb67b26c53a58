// Which patch scale a denoising step may take. Free of torch and Python; ddit_ext.PatchScheduler is this
// class.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ddit {

// A step takes the largest scale whose score is below that scale's threshold, else the base scale 1. A batch
// takes the finest choice of its samples. All errors are std::invalid_argument (ValueError in Python).
class PatchScheduler {
 public:
  // scales: 1 first, then increasing. thresholds: one per scale > 1, in the same order.
  // The first protect_first and the last protect_last steps of a run are at the base scale, whatever the
  // scores.
  PatchScheduler(std::vector<int64_t> scales, std::vector<double> thresholds, int64_t protect_first = 0,
                 int64_t protect_last = 0);

  // A new run of total_steps steps; 0 where the length is unknown, which protect_last > 0 doesn't allow.
  // A new object stands at the begin of a run of unknown length.
  void begin(int64_t total_steps = 0);

  // scores[sample][scale], one per entry of `scales` (that of the base scale isn't looked at). No samples:
  // there is no signal, and the step is at the base scale. A NaN is below no threshold. Steps may be skipped
  // but not go back; asked again for the same step, the answer is the same, whatever `scores`.
  int64_t decide(int64_t step, const std::vector<std::vector<double>>& scores);

  // What each sample would have taken by itself at the last decision; the base scale where the step is
  // protected. Empty before the first decision of a run, and where there was no signal.
  const std::vector<int64_t>& per_sample() const { return per_sample_; }

  const std::vector<int64_t>& scales() const { return scales_; }
  const std::vector<double>& thresholds() const { return thresholds_; }
  int64_t protect_first() const { return protect_first_; }
  int64_t protect_last() const { return protect_last_; }

  std::string repr() const;

 private:
  bool is_protected(int64_t step) const;
  int64_t choose(const std::vector<double>& sample_scores) const;

  std::vector<int64_t> scales_;
  std::vector<double> thresholds_;
  int64_t protect_first_;
  int64_t protect_last_;

  int64_t total_steps_ = 0;
  int64_t last_step_ = -1;  // -1: no decision in this run yet
  int64_t last_scale_ = 1;
  std::vector<int64_t> per_sample_;
};

}  // namespace ddit

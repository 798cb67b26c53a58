// Fewer model calls: which steps of a flow-matching run call the model, and the numbers that bridge the
// others.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace ddit {

// kRun: what all steps of the Euler run would give. kExact: what infinitely many would, the sample of the
// ODE.
enum class ForecastTarget { kRun, kExact };

// How a gap is crossed. kEuler: in closed form, with the numbers of ForecastCall. kMultistep: a multistep
// sampler (UniPC, DPM-Solver++, DEIS) takes every level of it with forecast outputs; with few calls it is
// crossed in closed form, too.
enum class ForecastSolver { kEuler, kMultistep };

// What a forecast follows along a line. kVelocity: the model's output, over sigma. kSample, with few calls:
// the end of the run that it points to, over the logarithm of signal to noise. It aims at the exact sample
// whatever the target: few calls come no nearer to the run.
enum class ForecastLine { kVelocity, kSample };

// growth: how the gaps grow; 1 spreads the calls evenly. slope: the share of the last slope that the forecast
// follows, which differs from gap to gap (ForecastCall::slope). corrector: the share of a gap's error that
// the call after it takes back.
struct ForecastSettings {
  double growth = 0.0;
  double slope = 0.0;
  double corrector = 0.0;
  ForecastLine line = ForecastLine::kVelocity;
};

// What ForecastPlan takes where nothing is given (docs/design/forecast-sampler.md has the measurements).
ForecastSettings forecast_defaults(int64_t steps, int64_t calls,
                                   ForecastSolver solver = ForecastSolver::kEuler,
                                   ForecastTarget target = ForecastTarget::kRun);

// The k-th computed step is at steps * (k / calls)^growth, rounded, and after the one before.
// std::invalid_argument where calls is not in [1, steps] or growth not in [1, 4].
std::vector<int64_t> forecast_steps(int64_t steps, int64_t calls, double growth);

// One model call and the gap after it. With v the model's output, x the sample (both at sigma), and the
// fields of this call, f = of_sample * x + of_output * v is what follows a line. d is the divided difference
// of the last two f over sigma, d' the one before it. What the last gap has missed, with the fields of the
// call before:
//   c = correction * (d - slope * d')
// and with the fields of this call:
//   x_next = x + keep * c + s0 * v + forecast * d
// The first call has no d and takes it as 0.
struct ForecastCall {
  int64_t step = 0;         // index among all steps
  int64_t levels = 0;       // steps that this call stands for: itself and the gap
  double sigma = 0.0;       // noise level of the call
  double next_sigma = 0.0;  // and of the next one; at the last call, the end of the run
  double of_sample = 0.0;   // kVelocity: 0; kSample: 1
  double of_output = 1.0;   // kVelocity: 1; kSample: end - sigma
  double s0 = 0.0;          // sum of the steps' sizes, next_sigma - sigma
  double s1 = 0.0;    // what a slope of 1 adds over the gap: by all steps (kRun), or their integral (kExact);
                      // for kSample, half of what the whole change would add
  double keep = 1.0;  // kVelocity: 1; kSample: noise after the gap / noise before it
  double slope = 0.0;       // of the settings; for Euler's velocities to the exact sample, times
                            // (noise after / before)^2; for kSample, times what a line over the logarithm
                            // makes of it, and 0 at the first call and the last
  double forecast = 0.0;    // slope * s1
  double correction = 0.0;  // corrector * s1
};

// sigmas: the noise levels of all steps and the end, steps + 1 values that never rise (or, for models whose
// time runs the other way, never fall). std::invalid_argument for anything else, for calls outside of
// [1, steps], growth outside of [1, 4], slope or corrector outside of [0, 1].
class ForecastPlan {
 public:
  ForecastPlan(std::vector<double> sigmas, int64_t calls, ForecastTarget target = ForecastTarget::kRun,
               std::optional<double> growth = std::nullopt, std::optional<double> slope = std::nullopt,
               std::optional<double> corrector = std::nullopt,
               ForecastSolver solver = ForecastSolver::kEuler);

  const std::vector<double>& sigmas() const { return sigmas_; }
  int64_t total_steps() const { return static_cast<int64_t>(sigmas_.size()) - 1; }
  ForecastTarget target() const { return target_; }
  ForecastSolver solver() const { return solver_; }
  const ForecastSettings& settings() const { return settings_; }
  const std::vector<ForecastCall>& calls() const { return calls_; }
  std::vector<int64_t> steps() const;  // of the calls

 private:
  std::vector<double> sigmas_;
  ForecastTarget target_;
  ForecastSolver solver_;
  ForecastSettings settings_;
  std::vector<ForecastCall> calls_;
};

}  // namespace ddit

#include "ddit_ext/forecast_plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

constexpr const char* kName = "ForecastPlan";
constexpr int64_t kFewCalls = 10;       // with fewer, forecasts follow samples
constexpr int64_t kFewCallsOfARun = 7;  // Euler's own outputs repeat its run better from here on
constexpr double kLeastSignal = 1e-6;   // at the beginning there is none, and its logarithm is infinite
// A run that begins above this is of variance exploding: its noise is added to a signal that stays. One of
// those that begins at or below is taken for flow matching, since levels alone don't tell.
constexpr double kMostOfFlowMatching = 1.001;

void check_calls(int64_t steps, int64_t calls) {
  check(kName, steps >= 1, "there must be 1 step or more, got ", steps);
  check(kName, calls >= 1 && calls <= steps, "calls must be in [1, steps = ", steps, "], got ", calls);
}

void check_share(const char* what, double share) {
  check(kName, share >= 0.0 && share <= 1.0, what, " must be in [0, 1], got ", share);
}

void check_sigmas(const std::vector<double>& sigmas) {
  check(kName, sigmas.size() >= 2, "sigmas must hold a noise level for each step and one for the end, got ",
        show(sigmas));
  const double direction = sigmas.back() - sigmas.front();
  for (size_t j = 0; j < sigmas.size(); ++j) {
    check(kName, std::isfinite(sigmas[j]), "sigmas must be finite, got ", sigmas[j], " at step ", j);
    if (j == 0) continue;
    const double size = sigmas[j] - sigmas[j - 1];
    check(kName, size == 0.0 || (size < 0.0) == (direction < 0.0),
          "sigmas must fall from the first step to the end, got ", sigmas[j], " after ", sigmas[j - 1],
          " at step ", j);
  }
}

// The share of the noise that is left after a gap, or a step of it.
double left(double before, double after) { return before == 0.0 ? 1.0 : after / before; }

// What outputs on a line of slope 1 over sigma add over the gap whose steps are at `noise` (levels less the
// end), by all steps or as an integral.
double added(const std::vector<double>& noise, ForecastTarget target) {
  const double before = noise.front(), after = noise.back(), size = after - before;
  if (target == ForecastTarget::kExact) return size * size / 2.0;
  double sum = 0.0;
  for (size_t j = 0; j + 1 < noise.size(); ++j) sum += (noise[j + 1] - noise[j]) * (noise[j] - before);
  return sum;
}

bool few(int64_t steps, int64_t calls, ForecastSolver solver, ForecastTarget target) {
  if (solver == ForecastSolver::kEuler && target == ForecastTarget::kRun)
    return calls < kFewCallsOfARun && 4 * calls <= steps;
  return calls < kFewCalls;
}

// The levels of a run as signal and noise. Noise is counted from the run's end, where the last gap has
// removed all of it.
class SignalToNoise {
 public:
  explicit SignalToNoise(const std::vector<double>& sigmas) {
    // Of levels that rise we only know that their end is clean.
    left_at_end_ = sigmas.back() < sigmas.front() ? sigmas.back() : 0.0;
    const double first = std::abs(sigmas.front() - sigmas.back()) + left_at_end_;
    signal_stays_ = first > kMostOfFlowMatching;
  }

  // Levels `before`, `at` and `after` (noise), two gaps. How large the slope over sigma is in the second,
  // next to that in the first, along a line over the logarithm of signal to noise; 0 in a gap to the end,
  // where that is infinite.
  double slope_ratio(double before, double at, double after) const {
    if (before == at || at == after || after == 0.0) return 0.0;
    const double first = logarithm(std::abs(at)) - logarithm(std::abs(before));
    const double second = logarithm(std::abs(after)) - logarithm(std::abs(at));
    return second / first * (at - before) / (after - at);
  }

 private:
  double logarithm(double noise) const {
    const double signal = signal_stays_ ? 1.0 : std::max(1.0 - left_at_end_ - noise, kLeastSignal);
    return std::log(signal / noise);
  }

  double left_at_end_ = 0.0;
  bool signal_stays_ = false;  // noise is added to it
};

}  // namespace

ForecastSettings forecast_defaults(int64_t steps, int64_t calls, ForecastSolver solver,
                                   ForecastTarget target) {
  check_calls(steps, calls);
  if (calls == steps) return {1.0, 0.0, 0.0};  // the run itself
  // Long gaps: a forecast along the whole slope overshoots, the more the fewer steps are computed.
  const double share = static_cast<double>(calls) / static_cast<double>(steps),
               count = static_cast<double>(calls);
  const bool samples = few(steps, calls, solver, target);
  if (solver == ForecastSolver::kMultistep)
    return samples ? ForecastSettings{1.5, 0.0, 1.0, ForecastLine::kSample}
                   : ForecastSettings{2.0 - 0.8 * share, 0.0, 1.0};
  if (!samples) return {1.75, std::clamp(4.2 * (share - 0.2), 0.0, 0.75), 1.0};
  return {std::clamp(0.25 + 0.5 * count, 1.0, 1.75), std::clamp(0.1875 * (count - 3.0), 0.0, 0.75), 1.0,
          ForecastLine::kSample};
}

std::vector<int64_t> forecast_steps(int64_t steps, int64_t calls, double growth) {
  check_calls(steps, calls);
  check(kName, growth >= 1.0 && growth <= 4.0, "growth must be in [1, 4], got ", growth);
  std::vector<int64_t> computed;
  int64_t last = -1;
  for (int64_t k = 0; k < calls; ++k) {
    const double share = std::pow(static_cast<double>(k) / static_cast<double>(calls), growth);
    const int64_t place = std::llround(static_cast<double>(steps) * share);
    last = std::min(std::max(last + 1, place), steps - (calls - k));  // those to come need a step each
    computed.push_back(last);
  }
  return computed;
}

ForecastPlan::ForecastPlan(std::vector<double> sigmas, int64_t calls, ForecastTarget target,
                           std::optional<double> growth, std::optional<double> slope,
                           std::optional<double> corrector, ForecastSolver solver)
    : sigmas_(std::move(sigmas)), target_(target), solver_(solver) {
  check_sigmas(sigmas_);
  const int64_t steps = total_steps();
  settings_ = forecast_defaults(steps, calls, solver, target);
  settings_.growth = growth.value_or(settings_.growth);
  settings_.slope = slope.value_or(settings_.slope);
  settings_.corrector = corrector.value_or(settings_.corrector);
  check_share("slope", settings_.slope);
  check_share("corrector", settings_.corrector);
  const std::vector<int64_t> computed = forecast_steps(steps, calls, settings_.growth);
  const SignalToNoise ratios(sigmas_);
  for (size_t k = 0; k < computed.size(); ++k) {
    const int64_t end = k + 1 < computed.size() ? computed[k + 1] : steps;
    ForecastCall call;
    call.step = computed[k];
    call.levels = end - call.step;
    call.sigma = sigmas_[static_cast<size_t>(call.step)];
    call.next_sigma = sigmas_[static_cast<size_t>(end)];
    call.s0 = call.next_sigma - call.sigma;
    std::vector<double> noise;
    for (int64_t j = call.step; j <= end; ++j)
      noise.push_back(sigmas_[static_cast<size_t>(j)] - sigmas_.back());
    call.slope = settings_.slope;
    const double kept = left(noise.front(), noise.back());
    if (settings_.line == ForecastLine::kSample) {
      call.of_sample = 1.0;
      call.of_output = -noise.front();
      call.keep = kept;
      call.s1 = call.s0 * (1.0 - kept) / 2.0;
      call.slope *=
          k == 0 ? 0.0
                 : ratios.slope_ratio(calls_.back().sigma - sigmas_.back(), noise.front(), noise.back());
    } else {
      call.s1 = added(noise, target);
      if (target == ForecastTarget::kExact && solver == ForecastSolver::kEuler)
        call.slope *= kept * kept;  // a gap that removes most of the noise is where forecasts become unstable
    }
    call.forecast = call.slope * call.s1;
    call.correction = settings_.corrector * call.s1;
    calls_.push_back(call);
  }
}

std::vector<int64_t> ForecastPlan::steps() const {
  std::vector<int64_t> computed;
  for (const ForecastCall& call : calls_) computed.push_back(call.step);
  return computed;
}

}  // namespace ddit

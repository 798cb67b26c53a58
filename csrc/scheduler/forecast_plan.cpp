#include "ddit_ext/forecast_plan.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "scheduler/errors.h"

namespace ddit {
namespace {

constexpr const char* kName = "ForecastPlan";
constexpr int64_t kFewCalls = 10;  // with fewer, a multistep sampler's own order is of no use

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

// What a line of slope 1 adds over the gap whose steps are at `noise` (levels less the end): f rises with
// sigma, by all steps or as an integral. Velocities add up; a sample moves the nearer to f the less noise is
// left.
double added(const std::vector<double>& noise, ForecastTarget target, ForecastLine line) {
  const double before = noise.front(), after = noise.back(), size = after - before;
  if (line == ForecastLine::kSample)
    return size - (after == 0.0 || before == 0.0 ? 0.0 : after * std::log(after / before));
  if (target == ForecastTarget::kExact) return size * size / 2.0;
  double sum = 0.0;
  for (size_t j = 0; j + 1 < noise.size(); ++j) sum += (noise[j + 1] - noise[j]) * (noise[j] - before);
  return sum;
}

}  // namespace

ForecastSettings forecast_defaults(int64_t steps, int64_t calls, ForecastSolver solver) {
  check_calls(steps, calls);
  if (calls == steps) return {1.0, 0.0, 0.0};  // the run itself
  // Long gaps: a forecast along the whole slope overshoots, the more the fewer steps are computed.
  const double share = static_cast<double>(calls) / static_cast<double>(steps);
  if (solver == ForecastSolver::kMultistep) {
    if (calls < kFewCalls) return {1.5, 0.0, 1.0, ForecastLine::kSample};
    return {2.0 - 0.8 * share, 0.0, 1.0};
  }
  return {1.75, std::clamp(4.2 * (share - 0.2), 0.0, 0.75), 1.0};
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
  settings_ = forecast_defaults(steps, calls, solver);
  settings_.growth = growth.value_or(settings_.growth);
  settings_.slope = slope.value_or(settings_.slope);
  settings_.corrector = corrector.value_or(settings_.corrector);
  check_share("slope", settings_.slope);
  check_share("corrector", settings_.corrector);
  const std::vector<int64_t> computed = forecast_steps(steps, calls, settings_.growth);
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
    call.s1 = added(noise, target, settings_.line);
    call.slope = settings_.slope;
    const double kept = left(noise.front(), noise.back());
    if (settings_.line == ForecastLine::kSample) {
      call.of_sample = 1.0;
      call.of_output = -noise.front();
      call.keep = kept;
    } else if (target == ForecastTarget::kExact && solver == ForecastSolver::kEuler) {
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

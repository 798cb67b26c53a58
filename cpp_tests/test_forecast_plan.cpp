// Plays cases/forecast_plan_cases.json, as python_tests/schedulers/test_forecast_plan.py does.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ddit_ext/forecast_plan.h"
#include "json.h"
#include "scheduler_cases.h"

namespace {

using ddit::ForecastPlan;
using ddit::ForecastSolver;
using ddit::ForecastTarget;
using ddit_test::Json;

const Json& plan_cases() {
  static const Json all = ddit_test::read_json_file(
      (std::filesystem::path(__FILE__).parent_path() / "cases" / "forecast_plan_cases.json").string());
  return all;
}

std::optional<double> optional(const Json& item, const std::string& key) {
  const auto found = item.members.find(key);
  if (found == item.members.end()) return std::nullopt;
  return found->second.number;
}

ForecastPlan plan_of(const Json& item) {
  const auto target = item.members.find("target");
  const bool exact = target != item.members.end() && target->second.text == "exact";
  return ForecastPlan(
      ddit_test::numbers(item.at("sigmas")), item.integer("calls", 0),
      exact ? ForecastTarget::kExact : ForecastTarget::kRun, optional(item, "growth"),
      optional(item, "slope"), optional(item, "corrector"),
      item.members.count("solver") != 0 ? ForecastSolver::kMultistep : ForecastSolver::kEuler);
}

TEST(ForecastPlan, HasTheNumbersOfTheCases) {
  for (const Json& item : plan_cases().at("plans").items) {
    SCOPED_TRACE(item.at("name").text);
    const ForecastPlan plan = plan_of(item);
    const std::vector<Json>& rows = item.at("rows").items;
    ASSERT_EQ(plan.calls().size(), rows.size());
    for (size_t k = 0; k < rows.size(); ++k) {
      const ddit::ForecastCall& call = plan.calls()[k];
      const std::vector<double> meant = ddit_test::numbers(rows[k]);
      const std::vector<double> got = {static_cast<double>(call.step),
                                       static_cast<double>(call.levels),
                                       call.sigma,
                                       call.next_sigma,
                                       call.of_sample,
                                       call.of_output,
                                       call.s0,
                                       call.s1,
                                       call.keep,
                                       call.slope,
                                       call.forecast,
                                       call.correction};
      for (size_t j = 0; j < meant.size(); ++j)
        EXPECT_NEAR(got[j], meant[j], 1e-14) << "call " << k << ", " << j;
    }
  }
}

TEST(ForecastPlan, NamesWhatIsNotMeant) {
  for (const Json& item : plan_cases().at("errors").items) {
    ddit_test::expect_error([&] { plan_of(item); }, item.at("message").text);
  }
}

TEST(ForecastPlan, CoversEveryStepOnce) {
  for (int64_t steps = 1; steps <= 30; ++steps) {
    for (int64_t calls = 1; calls <= steps; ++calls) {
      for (const double growth : {1.0, 1.75, 4.0}) {
        const std::vector<int64_t> made = ddit::forecast_steps(steps, calls, growth);
        ASSERT_EQ(static_cast<int64_t>(made.size()), calls);
        ASSERT_EQ(made.front(), 0);
        for (size_t k = 1; k < made.size(); ++k) ASSERT_GT(made[k], made[k - 1]);
        ASSERT_LT(made.back(), steps);
      }
    }
  }
}

TEST(ForecastPlan, WithAllStepsIsTheRunItself) {
  std::vector<double> sigmas;
  for (int j = 0; j <= 12; ++j) sigmas.push_back(1.0 - j / 12.0);
  for (const ForecastTarget target : {ForecastTarget::kRun, ForecastTarget::kExact}) {
    const ForecastPlan plan(sigmas, 12, target);
    for (const ddit::ForecastCall& call : plan.calls()) {
      EXPECT_EQ(call.levels, 1);
      EXPECT_EQ(call.forecast, 0.0);
      EXPECT_EQ(call.correction, 0.0);
    }
  }
}

TEST(ForecastPlan, DefaultsFollowFromTheCalls) {
  for (const ForecastSolver solver : {ForecastSolver::kEuler, ForecastSolver::kMultistep}) {
    for (const ForecastTarget target : {ForecastTarget::kRun, ForecastTarget::kExact}) {
      double last = 0.0;
      bool outputs = false;
      for (int64_t calls = 1; calls < 28; ++calls) {
        const ddit::ForecastSettings made = ddit::forecast_defaults(28, calls, solver, target);
        const bool now = made.line == ddit::ForecastLine::kVelocity;
        EXPECT_TRUE(now || !outputs);                        // samples with few calls alone
        EXPECT_GE(made.slope, now == outputs ? last : 0.0);  // the fewer calls, the less a slope is followed
        EXPECT_TRUE(made.growth >= 1.0 && made.growth <= 2.0 && made.slope <= 0.75);
        EXPECT_EQ(made.corrector, 1.0);
        outputs = now;
        last = made.slope;
      }
      EXPECT_TRUE(outputs);
    }
  }
}

TEST(ForecastPlan, FewCallsOfFewStepsRepeatTheRun) {
  const auto line = [](int64_t steps, int64_t calls, ForecastTarget target) {
    return ddit::forecast_defaults(steps, calls, ForecastSolver::kEuler, target).line;
  };
  EXPECT_EQ(line(8, 6, ForecastTarget::kRun), ddit::ForecastLine::kVelocity);
  EXPECT_EQ(line(8, 6, ForecastTarget::kExact), ddit::ForecastLine::kSample);
  EXPECT_EQ(line(28, 6, ForecastTarget::kRun), ddit::ForecastLine::kSample);
  EXPECT_EQ(line(100, 7, ForecastTarget::kRun), ddit::ForecastLine::kVelocity);
}

// One line through outputs that lie on a line: the closed form is what Euler steps give, exactly.
TEST(ForecastPlan, CrossesGapsOfALineAsEulerStepsDo) {
  std::vector<double> sigmas;
  for (int j = 0; j <= 20; ++j) sigmas.push_back(std::pow(1.0 - j / 20.0, 1.5));
  const auto output = [](double sigma) { return 0.3 + 2.0 * sigma; };
  double euler = 1.0;
  for (int j = 0; j < 20; ++j) euler += (sigmas[j + 1] - sigmas[j]) * output(sigmas[j]);
  const ForecastPlan plan(sigmas, 8, ForecastTarget::kRun, 1.5, 1.0, 1.0);
  double x = 1.0, slope = 0.0, last = 0.0;
  for (size_t k = 0; k < plan.calls().size(); ++k) {
    const ddit::ForecastCall& call = plan.calls()[k];
    const double v = output(call.sigma);
    if (k > 0) {
      const ddit::ForecastCall& before = plan.calls()[k - 1];
      const double now = (v - last) / (call.sigma - before.sigma);
      x += call.keep * before.correction * (now - before.slope * slope);
      slope = now;
    }
    x += call.s0 * v + call.forecast * slope;
    last = v;
  }
  EXPECT_NEAR(x, euler, 1e-12);
}

}  // namespace

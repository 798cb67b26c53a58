// Plays the policies of cases/scheduler_cases.json, as python_tests/strategies/test_policies.py does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "ddit_ext/budget_policy.h"
#include "ddit_ext/patch_scheduler.h"
#include "ddit_ext/planned_policy.h"
#include "ddit_ext/tea_cache_policy.h"
#include "scheduler_cases.h"

namespace {

using namespace ddit_test;

bool is(const Json& of, const char* key, const char* value) {
  const auto found = of.members.find(key);
  return found != of.members.end() && found->second.text == value;
}

ddit::SignalOptions options_of(const Json& of) {
  ddit::SignalOptions options;
  if (of.members.count("warmup_scale")) options.warmup_scale = of.integer("warmup_scale", 1);
  options.only_finer = of.members.count("only_finer") > 0;
  if (is(of, "mixed", "hold")) options.mixed = ddit::SignalOptions::Mixed::kHold;
  return options;
}

std::unique_ptr<ddit::Policy> policy_of(const Json& of) {
  const std::string& name = of.at("policy").text;
  const std::vector<int64_t> scales = integers(of.at("scales"));
  if (name == "TeaCachePolicy") {
    return std::make_unique<ddit::TeaCachePolicy>(
        number(of.at("threshold")), scales, numbers(of.at("thresholds")), numbers(of.at("coefficients")),
        of.integer("protect_first", 1), of.integer("protect_last", 1));
  }
  const int64_t first = of.integer("protect_first", 0), last = of.integer("protect_last", 0);
  if (name == "PatchScheduler") {
    return std::make_unique<ddit::PatchScheduler>(scales, numbers(of.at("thresholds")), first, last,
                                                  options_of(of));
  }
  if (name == "BudgetPolicy") {
    const ddit::Scores reference =
        of.members.count("reference") ? scores_of(of.at("reference")) : ddit::Scores{};
    return std::make_unique<ddit::BudgetPolicy>(scales, numbers(of.at("costs")),
                                                of.at("target_speedup").number, first, last, options_of(of),
                                                reference);
  }
  EXPECT_EQ(name, "FixedSchedule");
  return std::make_unique<ddit::FixedSchedule>(scales, integers(of.at("schedule")), first, last);
}

TEST(Policies, SharedRuns) {
  ASSERT_FALSE(cases().at("policies").items.empty());
  for (const Json& run : cases().at("policies").items) {
    SCOPED_TRACE(run.at("name").text);
    expect_calls(*policy_of(run), run.at("calls"));
  }
}

TEST(Policies, SharedBadPolicies) {
  ASSERT_FALSE(cases().at("bad_policies").items.empty());
  for (const Json& bad : cases().at("bad_policies").items) {
    expect_error(
        [&] {
          const auto policy = policy_of(bad);
          if (bad.members.count("begin")) policy->begin(bad.integer("begin", 0));
        },
        bad.at("error").text);
  }
}

TEST(Policies, SharedBadDecisions) {
  ASSERT_FALSE(cases().at("bad_decisions").items.empty());
  for (const Json& bad : cases().at("bad_decisions").items) {
    const auto policy = policy_of(bad);
    for (const Json& call : bad.at("before").items) play(*policy, call);
    expect_error([&] { play(*policy, bad.at("call")); }, bad.at("error").text);
  }
}

TEST(Policies, ACloneGoesItsOwnWay) {
  for (const Json& run : cases().at("policies").items) {
    SCOPED_TRACE(run.at("name").text);
    const auto first = policy_of(run);
    Json half = run.at("calls");
    const size_t middle = half.items.size() / 2;
    Json rest = half;
    half.items.resize(middle);
    rest.items.erase(rest.items.begin(), rest.items.begin() + static_cast<std::ptrdiff_t>(middle));
    expect_calls(*first, half);
    const auto second = first->clone();
    EXPECT_EQ(second->repr(), first->repr());
    expect_calls(*second, rest);
    expect_calls(*first, rest);  // what the clone went through has not changed it
  }
}

TEST(FixedSchedule, OneScaleHoldsForAnyStep) {
  ddit::FixedSchedule schedule({1, 2}, int64_t{2}, 0, 1);
  schedule.begin(100);
  EXPECT_EQ(schedule.decide(0, {}), 2);
  EXPECT_EQ(schedule.decide(98, {}), 2);
  EXPECT_EQ(schedule.decide(99, {}), 1);
}

TEST(FixedSchedule, AListThatIsTooShortForARunOfUnknownLength) {
  ddit::FixedSchedule schedule({1, 2}, std::vector<int64_t>{2, 1});
  schedule.begin();
  EXPECT_EQ(schedule.decide(1, {}), 1);
  expect_error([&] { schedule.decide(2, {}); }, "schedule has 2 entries, but the run has come to step 2");
}

TEST(BudgetPolicy, EveryRunEndsOnItsBudget) {
  const std::vector<double> costs{0.4, 0.15};
  std::mt19937 random(0);
  const auto draw = [&random](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random()) % (most - least + 1);
  };
  const auto uniform = [&random] { return static_cast<double>(random()) / 4294967296.0; };
  int runs = 0;
  for (int i = 0; i < 500; ++i) {
    const int64_t steps = draw(1, 40), first = draw(0, 2), last = draw(0, 2);
    const double target = 1.0 + 3.0 * uniform();
    const double fine = static_cast<double>(std::min(steps, first + last));
    if (static_cast<double>(steps) / target < fine + (static_cast<double>(steps) - fine) * costs[1]) continue;
    ddit::SignalOptions options;
    options.only_finer = draw(0, 3) == 0;
    if (draw(0, 1)) options.mixed = ddit::SignalOptions::Mixed::kHold;
    ddit::Scores reference;
    if (draw(0, 1)) {
      for (int64_t row = draw(1, 30); row > 0; --row) reference.push_back({0.0, uniform(), uniform()});
    }
    ddit::BudgetPolicy policy({1, 2, 4}, costs, target, first, last, options, reference);
    policy.begin(steps);
    double cost = 0.0;
    for (int64_t step = 0; step < steps; ++step) {
      ddit::Scores scores;
      if (draw(0, 2)) scores = {{0.0, uniform(), uniform()}, {0.0, uniform(), uniform()}};
      const int64_t scale = policy.decide(step, scores);
      cost += scale == 1 ? 1.0 : costs[scale == 2 ? 0 : 1];
    }
    const double left = static_cast<double>(steps) / target - cost;
    EXPECT_GE(left, -1e-6) << policy.repr();
    EXPECT_LT(left, 1.0 - costs[1]) << policy.repr();
    ++runs;
  }
  EXPECT_GT(runs, 200);
}

TEST(FixedSchedule, MaySkipStepsOfAListButTheFirst) {
  ddit::FixedSchedule policy({1, 2}, std::vector<int64_t>{1, 0, 2, 0});
  EXPECT_TRUE(policy.skips() && !policy.needs_signal());
  policy.begin(4);
  EXPECT_EQ(policy.decide(1, {}), ddit::kSkip);
  EXPECT_EQ(policy.decide(2, {}), 2);
  EXPECT_FALSE(ddit::FixedSchedule({1, 2}, std::vector<int64_t>{1, 2}).skips());
  expect_error([] { ddit::FixedSchedule({1, 2}, std::vector<int64_t>{0, 1}); },
               "schedule[0] must be a scale, got 0: the first step can't be skipped");
  expect_error([] { ddit::FixedSchedule({1, 2}, 0); }, "schedule: expected one of the scales (1, 2), got 0");
}

TEST(TeaCachePolicy, ShowsItsSumAndKeepsItWhereACallFails) {
  ddit::TeaCachePolicy policy(0.5, {1, 2}, {1.0}, {2.0, 0.0}, 1, 0);
  EXPECT_TRUE(policy.skips() && policy.needs_signal());
  EXPECT_EQ(policy.repr(),
            "TeaCachePolicy(threshold=0.5, scales=[1, 2], thresholds=[1], coefficients=[2, 0], "
            "protect_first=1, protect_last=0)");
  EXPECT_EQ(policy.decide(1, {{0.125}, {0.0625}}), ddit::kSkip);
  EXPECT_EQ(policy.accumulated(), (std::vector<double>{0.25, 0.125}));
  expect_error([&] { policy.decide(2, {{0.125, 0.125}, {0.125}}); },
               "TeaCachePolicy: scores must hold one number, the relative change, for each sample, got 2 for "
               "sample 0: [0.125, 0.125]");
  expect_error([&] { policy.decide(2, {{0.125}}); },
               "scores must hold as many samples as before in this run, 2, got 1");
  EXPECT_EQ(policy.accumulated(), (std::vector<double>{0.25, 0.125}));
  EXPECT_EQ(policy.decide(2, {{0.125}, {0.0}}), 2);
  EXPECT_TRUE(policy.accumulated().empty());
}

TEST(TeaCachePolicy, WithNothingToDecideItNeedsNoSignal) {
  ddit::TeaCachePolicy policy(0.0);
  EXPECT_FALSE(policy.skips() || policy.needs_signal());
  policy.begin(3);
  EXPECT_EQ(policy.decide(1, {{0.0}}), 1);
  EXPECT_FALSE(ddit::PatchScheduler({1, 2}, {1.0}).skips());
}

}  // namespace

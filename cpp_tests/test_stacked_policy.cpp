// Two policies in one: which steps are skipped, and who sizes the others.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "ddit_ext/budget_policy.h"
#include "ddit_ext/patch_scheduler.h"
#include "ddit_ext/planned_policy.h"
#include "ddit_ext/stacked_policy.h"
#include "scheduler_cases.h"

namespace {

using namespace ddit_test;
using ddit::StackedPolicy;
using ddit::TeaCachePolicy;

const double kAlways = std::numeric_limits<double>::infinity();

std::vector<int64_t> run(StackedPolicy& policy, int64_t steps, const ddit::Scores& scores = {}) {
  std::vector<int64_t> taken;
  policy.begin(steps);
  for (int64_t step = 0; step < steps; ++step) {
    taken.push_back(policy.skipped(step, {{0.125}}) ? ddit::kSkip : policy.decide(step, scores));
  }
  return taken;
}

TEST(StackedPolicy, SkipsBySumsAndSizesTheRest) {
  StackedPolicy policy(TeaCachePolicy(0.25), ddit::PatchScheduler({1, 2}, {1.0}));
  EXPECT_TRUE(policy.skips() && policy.needs_signal());
  EXPECT_EQ(policy.scales(), (std::vector<int64_t>{1, 2}));
  // A sum of 0.125 skips, one of 0.25 does not.
  EXPECT_EQ(run(policy, 6, {{0.0, 0.5}}), (std::vector<int64_t>{2, 0, 2, 0, 2, 2}));
  EXPECT_EQ(run(policy, 6, {{0.0, 2.0}}), (std::vector<int64_t>{1, 0, 1, 0, 1, 1}));
  EXPECT_EQ(policy.per_sample(), (std::vector<int64_t>{1}));
}

TEST(StackedPolicy, DoesNotSkipWhatEitherProtects) {
  StackedPolicy late(TeaCachePolicy(kAlways, {1}, {}, {1.0, 0.0}, 3, 1),
                     ddit::FixedSchedule({1, 2}, {2, 2, 2, 1, 1, 1}));
  EXPECT_EQ(run(late, 6), (std::vector<int64_t>{2, 2, 2, 0, 0, 1}));
  EXPECT_FALSE(late.needs_signal());
  StackedPolicy ends(TeaCachePolicy(kAlways), ddit::FixedSchedule({1, 2}, 2, 2, 2));
  EXPECT_EQ(run(ends, 6), (std::vector<int64_t>{1, 1, 0, 0, 1, 1}));
}

TEST(StackedPolicy, AskedAgainItAnswersTheSameAndCopiesGoTheirOwnWay) {
  const ddit::PatchScheduler sizes({1, 2}, {1.0});
  StackedPolicy policy(TeaCachePolicy(0.25), sizes);
  policy.begin(6);
  EXPECT_FALSE(policy.skipped(0, {}));
  EXPECT_TRUE(policy.skipped(1, {{0.125}}));
  EXPECT_TRUE(policy.skipped(1, {{8.0}}));
  StackedPolicy copy(policy);
  EXPECT_FALSE(copy.skipped(2, {{8.0}}));
  EXPECT_EQ(copy.decide(2, {{0.0, 0.5}}), 2);
  EXPECT_TRUE(policy.skipped(2, {{0.0625}}));
  EXPECT_EQ(policy.skip().accumulated(), (std::vector<double>{0.1875}));
  EXPECT_EQ(policy.decide(3, {{0.0, 2.0}}), 1);
  const std::unique_ptr<ddit::Policy> cloned = policy.clone();
  EXPECT_EQ(cloned->repr(), policy.repr());
  EXPECT_EQ(policy.repr(), "StackedPolicy(skip=" + policy.skip().repr() + ", sizes=" + sizes.repr() + ")");
}

TEST(StackedPolicy, SaysWhatDoesNotFit) {
  const TeaCachePolicy coarse(0.25, {1, 2}, {0.5});
  expect_error([&] { StackedPolicy(coarse, ddit::PatchScheduler({1, 2}, {1.0})); },
               "StackedPolicy: skip must have no scales but [1], as sizes decides them, got [1, 2]");
  expect_error([&] { StackedPolicy(TeaCachePolicy(0.25), coarse); },
               "StackedPolicy: sizes must skip no steps and not look at the input, got TeaCachePolicy(");
  StackedPolicy both(TeaCachePolicy(0.25), ddit::BudgetPolicy({1, 2}, {0.5}, 1.5));
  expect_error([&] { both.skipped(1, {{0.0}}); }, "TeaCachePolicy: protect_last is 1, so begin(total_steps)");
  expect_error([&] { both.decide(1, {}); }, "BudgetPolicy: begin(total_steps) must come before decide");
  both.begin(4);
  expect_error([&] { both.skipped(4, {}); }, "TeaCachePolicy: step must be below total_steps = 4, got 4");
  expect_error([&] { both.decide(4, {}); }, "BudgetPolicy: step must be below total_steps = 4, got 4");
  expect_error([&] { both.skipped(-1, {}); }, "TeaCachePolicy: step must be 0 or more, got -1");
  expect_error([&] { both.decide(-1, {}); }, "BudgetPolicy: step must be 0 or more, got -1");
  StackedPolicy budget(TeaCachePolicy(0.25, {1}, {}, {1.0, 0.0}, 1, 0),
                       ddit::BudgetPolicy({1, 2}, {0.5}, 1.5));
  budget.begin(4);
  EXPECT_FALSE(budget.skipped(1, {}));
  expect_error([&] { budget.begin(0); }, "BudgetPolicy");
  EXPECT_FALSE(budget.skipped(1, {{0.0}}));  // the run goes on: the same step, the same answer
}

}  // namespace

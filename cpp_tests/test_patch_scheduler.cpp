// Plays cases/scheduler_cases.json, which python_tests/strategies/test_patch_scheduler.py plays, too.
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "ddit_ext/patch_scheduler.h"
#include "scheduler_cases.h"

namespace {

using ddit::PatchScheduler;
using namespace ddit_test;

PatchScheduler scheduler_of(const Json& of) {
  return {integers(of.at("scales")), numbers(of.at("thresholds")), of.integer("protect_first", 0),
          of.integer("protect_last", 0)};
}

TEST(PatchScheduler, SharedRuns) {
  ASSERT_FALSE(cases().at("runs").items.empty());
  for (const Json& run : cases().at("runs").items) {
    SCOPED_TRACE(run.at("name").text);
    PatchScheduler scheduler = scheduler_of(run);
    expect_calls(scheduler, run.at("calls"));
  }
}

TEST(PatchScheduler, SharedBadConstructions) {
  ASSERT_FALSE(cases().at("bad_constructions").items.empty());
  for (const Json& bad : cases().at("bad_constructions").items) {
    expect_error([&] { scheduler_of(bad); }, bad.at("error").text);
  }
}

TEST(PatchScheduler, SharedBadCalls) {
  ASSERT_FALSE(cases().at("bad_calls").items.empty());
  for (const Json& bad : cases().at("bad_calls").items) {
    PatchScheduler scheduler({1, 2}, {1.0}, 0, bad.integer("protect_last", 0));
    for (const Json& call : bad.at("before").items) play(scheduler, call);
    expect_error([&] { play(scheduler, bad.at("call")); }, bad.at("error").text);
  }
}

TEST(PatchScheduler, AFailedCallLeavesTheRunAsItWas) {
  PatchScheduler scheduler({1, 2}, {1.0});
  EXPECT_EQ(scheduler.decide(0, {{0.0, 0.0}}), 2);
  EXPECT_THROW(scheduler.decide(1, {{0.0}}), std::invalid_argument);
  EXPECT_EQ(scheduler.per_sample(), std::vector<int64_t>{2});
  EXPECT_EQ(scheduler.decide(0, {}), 2);
  EXPECT_EQ(scheduler.decide(1, {{0.0, 2.0}}), 1);
}

TEST(PatchScheduler, SaysWhatItIs) {
  const PatchScheduler scheduler({1, 2, 4}, {0.5, 0.25}, 2, 1);
  EXPECT_EQ(scheduler.scales(), (std::vector<int64_t>{1, 2, 4}));
  EXPECT_EQ(scheduler.thresholds(), (std::vector<double>{0.5, 0.25}));
  EXPECT_EQ(scheduler.repr(),
            "PatchScheduler(scales=[1, 2, 4], thresholds=[0.5, 0.25], protect_first=2, protect_last=1)");
}

}  // namespace

// Plays cases/scheduler_cases.json, which python_tests/test_patch_scheduler.py plays, too.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddit_ext/patch_scheduler.h"
#include "json.h"

namespace {

using ddit::PatchScheduler;
using ddit_test::Json;

const Json& cases() {
  static const Json all = ddit_test::read_json_file(
      (std::filesystem::path(__FILE__).parent_path() / "cases" / "scheduler_cases.json").string());
  return all;
}

std::vector<int64_t> integers(const Json& list) {
  std::vector<int64_t> values;
  for (const Json& item : list.items) values.push_back(static_cast<int64_t>(item.number));
  return values;
}

std::vector<double> numbers(const Json& list) {
  std::vector<double> values;
  for (const Json& item : list.items) {
    values.push_back(item.kind == Json::Kind::kNull ? std::numeric_limits<double>::quiet_NaN() : item.number);
  }
  return values;
}

PatchScheduler scheduler_of(const Json& of) {
  return {integers(of.at("scales")), numbers(of.at("thresholds")), of.integer("protect_first", 0),
          of.integer("protect_last", 0)};
}

// [total_steps] is a begin, [step, scores, ...] a decision.
int64_t play(PatchScheduler& scheduler, const Json& call) {
  const int64_t first = static_cast<int64_t>(call.items.at(0).number);
  if (call.items.size() == 1) {
    scheduler.begin(first);
    return 0;
  }
  std::vector<std::vector<double>> scores;
  for (const Json& sample : call.items.at(1).items) scores.push_back(numbers(sample));
  return scheduler.decide(first, scores);
}

template <class Call>
void expect_error(const Call& call, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << error.what() << "\nexpected: " << text;
  }
}

TEST(PatchScheduler, SharedRuns) {
  ASSERT_FALSE(cases().at("runs").items.empty());
  for (const Json& run : cases().at("runs").items) {
    SCOPED_TRACE(run.at("name").text);
    PatchScheduler scheduler = scheduler_of(run);
    for (const Json& call : run.at("calls").items) {
      const int64_t answer = play(scheduler, call);
      if (call.items.size() == 1) {
        EXPECT_TRUE(scheduler.per_sample().empty());
        continue;
      }
      EXPECT_EQ(answer, static_cast<int64_t>(call.items.at(2).number)) << "step " << call.items[0].number;
      EXPECT_EQ(scheduler.per_sample(), integers(call.items.at(3))) << "step " << call.items[0].number;
    }
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

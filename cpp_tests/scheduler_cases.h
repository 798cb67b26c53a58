// Reads cases/scheduler_cases.json, which python_tests/strategies/test_patch_scheduler.py and
// test_policies.py play, too.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddit_ext/policy.h"
#include "json.h"

namespace ddit_test {

inline const Json& cases() {
  static const Json all = read_json_file(
      (std::filesystem::path(__FILE__).parent_path() / "cases" / "scheduler_cases.json").string());
  return all;
}

inline std::vector<int64_t> integers(const Json& list) {
  std::vector<int64_t> values;
  for (const Json& item : list.items) values.push_back(static_cast<int64_t>(item.number));
  return values;
}

inline double number(const Json& item) {
  return item.kind == Json::Kind::kNull ? std::numeric_limits<double>::quiet_NaN() : item.number;
}

inline std::vector<double> numbers(const Json& list) {
  std::vector<double> values;
  for (const Json& item : list.items) values.push_back(number(item));
  return values;
}

inline ddit::Scores scores_of(const Json& table) {
  ddit::Scores scores;
  for (const Json& row : table.items) scores.push_back(numbers(row));
  return scores;
}

// [total_steps] is a begin, [step, scores, ...] a decision.
inline int64_t play(ddit::Policy& policy, const Json& call) {
  const int64_t first = static_cast<int64_t>(call.items.at(0).number);
  if (call.items.size() == 1) {
    policy.begin(first);
    return 0;
  }
  return policy.decide(first, scores_of(call.items.at(1)));
}

inline void expect_calls(ddit::Policy& policy, const Json& calls) {
  for (const Json& call : calls.items) {
    const int64_t answer = play(policy, call);
    if (call.items.size() == 1) {
      EXPECT_TRUE(policy.per_sample().empty());
      continue;
    }
    EXPECT_EQ(answer, static_cast<int64_t>(call.items.at(2).number)) << "step " << call.items[0].number;
    EXPECT_EQ(policy.per_sample(), integers(call.items.at(3))) << "step " << call.items[0].number;
  }
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

}  // namespace ddit_test

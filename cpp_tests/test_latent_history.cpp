#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddit_ext/latent_history.h"
#include "ddit_ext/patch_scheduler.h"
#include "quantiles_reference.h"

namespace {

using ddit::LatentHistory;
using namespace ddit_test;

constexpr Shape kSizes{2, 1, 5, 6, 4, 2, 2};
const Shape kStrides = dense_strides(kSizes, kPackedOrder);

std::vector<float> latent(unsigned step) { return random_values<float>(count(kSizes), step + 1); }

void push(LatentHistory& history, int64_t step) {
  history.push(step, latent(static_cast<unsigned>(step)).data(), kSizes);
}

void expect_last_four(const LatentHistory& history, unsigned newest) {
  const std::vector<float> z0 = latent(newest), z1 = latent(newest - 1), z2 = latent(newest - 2),
                           z3 = latent(newest - 3);
  const auto expected =
      reference_quantiles<float>({z0.data(), z1.data(), z2.data(), z3.data()},
                                 {kStrides, kStrides, kStrides, kStrides}, kSizes, {1, 2, 4}, 0.4);
  const auto got = history.quantiles({1, 2, 4}, 0.4);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t b = 0; b < got.size(); ++b) {
    ASSERT_EQ(got[b].size(), expected[b].size());
    for (size_t k = 0; k < got[b].size(); ++k) EXPECT_NEAR(got[b][k], expected[b][k], 1e-5 * expected[b][k]);
  }
}

template <class Error, class Call>
void expect_error(const Call& call, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(LatentHistory, IsReadyWithFourAndKeepsTheLastFour) {
  LatentHistory history;
  for (int64_t step = 0; step < 9; ++step) {
    EXPECT_EQ(history.ready(), step >= 4);
    push(history, step);
    if (step >= 3) expect_last_four(history, static_cast<unsigned>(step));
  }
}

TEST(LatentHistory, OwnsACopyOfAnyLayout) {
  const Shape planar = dense_strides(kSizes, kPlanarOrder);
  LatentHistory history;
  for (unsigned step = 0; step < 4; ++step) {
    const std::vector<float> packed = latent(step);
    std::vector<float> values(packed.size());
    Shape i{};
    for (i[0] = 0; i[0] < kSizes[0]; ++i[0])
      for (i[2] = 0; i[2] < kSizes[2]; ++i[2])
        for (i[3] = 0; i[3] < kSizes[3]; ++i[3])
          for (i[4] = 0; i[4] < kSizes[4]; ++i[4])
            for (i[5] = 0; i[5] < 2; ++i[5])
              for (i[6] = 0; i[6] < 2; ++i[6]) values[offset(i, planar)] = packed[offset(i, kStrides)];
    history.push(step, values.data(), kSizes, planar);
    std::fill(values.begin(), values.end(), -1.0f);  // the caller's buffer is free again
  }
  expect_last_four(history, 3);
}

TEST(LatentHistory, TheSameStepAgainIsIgnored) {
  LatentHistory history;
  for (int64_t step = 0; step < 4; ++step) {
    push(history, step);
    history.push(step, latent(99).data(), kSizes);
  }
  expect_last_four(history, 3);
}

TEST(LatentHistory, StartsANewRun) {
  LatentHistory history;
  auto fill = [&history](int64_t first) {
    for (int64_t step = first; step < first + 4; ++step) push(history, step);
    ASSERT_TRUE(history.ready());
  };
  fill(0);
  history.reset();
  EXPECT_FALSE(history.ready());
  fill(0);
  push(history, 2);  // back
  EXPECT_FALSE(history.ready());
  fill(3);
  push(history, 8);  // a gap
  EXPECT_FALSE(history.ready());
  fill(9);
  expect_last_four(history, 12);
  Shape other = kSizes;
  other[0] = 1;
  history.push(13, latent(13).data(), other);  // other sizes
  EXPECT_FALSE(history.ready());
}

TEST(LatentHistory, NeedsFourLatents) {
  LatentHistory history;
  for (int step = 0; step < 3; ++step) push(history, step);
  EXPECT_FALSE(history.ready());
  expect_error<std::logic_error>([&] { history.quantiles({1}, 0.4); },
                                 "needs the latents of four steps, got 3");
}

TEST(LatentHistory, KnowsWhetherItsDifferencesAreOfOneScale) {
  LatentHistory history;
  const std::vector<int64_t> taken{1, 1, 1, 4, 4, 4, 4, 1};
  const std::vector<bool> third{false, false, false, true, false, false, true, true, false};
  for (int64_t step = 0; step <= 8; ++step) {
    push(history, step);
    EXPECT_EQ(history.one_scale(), third[step]) << step;
    if (step < 8) history.took(taken[step]);
  }
  push(history, 9);  // at no scale that was told
  EXPECT_FALSE(history.one_scale());
  history.reset();
  expect_error<std::invalid_argument>([&] { history.took(1); }, "push must come before took");
  push(history, 0);
  expect_error<std::invalid_argument>([&] { history.took(0); }, "scale must be at least 1, got 0");
}

TEST(LatentHistory, FeedsTheScheduler) {
  LatentHistory history;
  for (int64_t step = 0; step < 4; ++step) push(history, step);
  ddit::PatchScheduler scheduler({1, 2, 4}, {1e-3, 1e9});
  EXPECT_EQ(scheduler.decide(3, history.quantiles(scheduler.scales(), 0.4)), 4);
}

TEST(LatentHistory, SizesThatOverflowAreRefusedAndTheRunGoesOn) {
  LatentHistory history;
  for (int64_t step = 0; step < 4; ++step) push(history, step);
  constexpr int64_t kLarge = int64_t{1} << 32;  // times itself, it is 0 in 64 bits
  const std::vector<float> z = latent(0);
  expect_error<std::invalid_argument>(
      [&] { history.push(4, z.data(), {1, 1, kLarge, kLarge, 1, 1, 1}, Shape{}); },
      "sizes must have fewer elements than 64 bits can count, got [1, 1, 4294967296, 4294967296, 1, 1, 1]");
  EXPECT_TRUE(history.ready());
}

TEST(LatentHistory, NamesABadArgument) {
  LatentHistory history;
  const std::vector<float> z = latent(0);
  Shape bad = kSizes;
  bad[3] = 0;
  expect_error<std::invalid_argument>([&] { history.push(-1, z.data(), kSizes); },
                                      "step must be 0 or more, got -1");
  expect_error<std::invalid_argument>([&] { history.push(0, nullptr, kSizes); },
                                      "data must point to a latent");
  expect_error<std::invalid_argument>([&] { history.push(0, z.data(), bad); },
                                      "sizes [B, F, h, w, C, p, p] must be");
  bad = kSizes;
  bad[6] = 1;
  expect_error<std::invalid_argument>([&] { history.push(0, z.data(), bad); }, "square patches");
  bad = kStrides;
  bad[1] = -4;
  expect_error<std::invalid_argument>([&] { history.push(0, z.data(), kSizes, bad); },
                                      "strides must be 0 or more");
  expect_error<std::logic_error>([&] { history.quantiles({1}, 0.4); },
                                 "needs the latents of four steps, got 0");
  for (int64_t step = 0; step < 4; ++step) push(history, step);
  expect_error<std::invalid_argument>([&] { history.quantiles({}, 0.4); }, "scales must name at least one");
  expect_error<std::invalid_argument>([&] { history.quantiles({0}, 0.4); },
                                      "scales must be at least 1, got 0");
  expect_error<std::invalid_argument>([&] { history.quantiles({1}, -0.1); },
                                      "quantile must be in [0, 1], got -0.1");
}

}  // namespace

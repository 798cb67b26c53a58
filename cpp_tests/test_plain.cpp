// The ops without torch, against a reading of each pixel by its place in the latent.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ddit_ext/plain.h"
#include "quantiles_reference.h"

namespace ddit_test {
namespace {

using ddit::plain::Cells;

struct Case {
  int64_t B, F, h, w, C, p, scale, D;
};

const std::vector<Case> kCases{{1, 1, 4, 4, 3, 2, 1, 5},
                               {2, 1, 4, 6, 3, 2, 2, 7},
                               {1, 2, 3, 5, 2, 2, 2, 4},
                               {2, 3, 5, 7, 1, 1, 4, 3},
                               {1, 1, 2, 2, 2, 2, 8, 6}};

int64_t up(int64_t n, int64_t s) { return (n + s - 1) / s; }

// Pixel (y, x) of channel c of a latent [B, C, F, H, W], the last row and column repeated.
float pixel(const std::vector<float>& z, const Case& k, int64_t b, int64_t f, int64_t c, int64_t y,
            int64_t x) {
  const int64_t H = k.h * k.p, W = k.w * k.p;
  y = std::min(y, H - 1);
  x = std::min(x, W - 1);
  return z[(((b * k.C + c) * k.F + f) * H + y) * W + x];
}

TEST(Plain, EmbedsAndDeembedsAnyGrid) {
  for (const Case& k : kCases) {
    const int64_t H = k.h * k.p, W = k.w * k.p, side = k.scale * k.p, K = k.C * side * side;
    const auto z = random_values<float>(k.B * k.C * k.F * H * W, 1);
    const auto weight = random_values<float>(k.D * K, 2), bias = random_values<float>(k.D, 3);
    const Cells cells = Cells::from_latents(z.data(), k.B, k.C, k.F, H, W, k.p);
    const auto tokens = ddit::plain::patch_embed(cells, weight.data(), bias.data(), k.D, k.scale);
    const int64_t rows = up(k.h, k.scale), cols = up(k.w, k.scale);
    ASSERT_EQ(tokens.size(), static_cast<size_t>(k.B * k.F * rows * cols * k.D));
    size_t at = 0;
    for (int64_t b = 0; b < k.B; ++b)
      for (int64_t f = 0; f < k.F; ++f)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t q = 0; q < cols; ++q)
            for (int64_t d = 0; d < k.D; ++d) {
              double sum = bias[d];
              for (int64_t i = 0; i < K; ++i) {
                const int64_t c = i / (side * side), y = i / side % side, x = i % side;
                sum +=
                    static_cast<double>(weight[d * K + i]) * pixel(z, k, b, f, c, r * side + y, q * side + x);
              }
              ASSERT_NEAR(tokens[at], sum, 1e-5 * (1 + std::abs(sum)));
              ++at;
            }
    // Back: the weight [C, s*p, s*p, D] on those tokens, cropped.
    const auto out_bias = random_values<float>(K, 4);
    const auto out =
        ddit::plain::patch_deembed(tokens.data(), weight.data(), out_bias.data(), k.D, k.scale, cells.sizes);
    ASSERT_EQ(out.size(), z.size());
    at = 0;
    for (int64_t b = 0; b < k.B; ++b)
      for (int64_t f = 0; f < k.F; ++f)
        for (int64_t i = 0; i < k.h; ++i)
          for (int64_t j = 0; j < k.w; ++j)
            for (int64_t c = 0; c < k.C; ++c)
              for (int64_t y = 0; y < k.p; ++y)
                for (int64_t x = 0; x < k.p; ++x) {
                  const int64_t feature = (c * side + i % k.scale * k.p + y) * side + j % k.scale * k.p + x;
                  const float* token =
                      tokens.data() + (((b * k.F + f) * rows + i / k.scale) * cols + j / k.scale) * k.D;
                  double sum = out_bias[feature];
                  for (int64_t d = 0; d < k.D; ++d)
                    sum += static_cast<double>(weight[feature * k.D + d]) * token[d];
                  ASSERT_NEAR(out[at], sum, 1e-5 * (1 + std::abs(sum)));
                  ++at;
                }
  }
}

TEST(Plain, AcceleratesAsTheKernelDoes) {
  const Shape sizes{2, 1, 5, 6, 4, 2, 2};
  const Shape strides = dense_strides(sizes, kPackedOrder);
  std::vector<std::vector<float>> z;
  std::array<Cells, 4> views;
  for (unsigned i = 0; i < 4; ++i) z.push_back(random_values<float>(count(sizes), i + 1));
  for (size_t i = 0; i < 4; ++i) views[i] = Cells::contiguous(z[i].data(), sizes);
  const auto got = ddit::plain::acceleration_quantiles(views, {1, 2, 4}, 0.4);
  const auto expected =
      reference_quantiles<float>({z[0].data(), z[1].data(), z[2].data(), z[3].data()},
                                 {strides, strides, strides, strides}, sizes, {1, 2, 4}, 0.4);
  ASSERT_EQ(got.size(), 6u);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i / 3][i % 3], 1e-5 * expected[i / 3][i % 3]);
}

TEST(Plain, AnEmptyBatchGivesNothing) {
  const Cells none = Cells::contiguous(nullptr, {0, 1, 4, 4, 3, 2, 2});
  const std::vector<float> weight(5 * 48);
  EXPECT_TRUE(ddit::plain::patch_embed(none, weight.data(), nullptr, 5, 2).empty());
  EXPECT_TRUE(ddit::plain::patch_deembed(nullptr, weight.data(), nullptr, 5, 2, none.sizes).empty());
  EXPECT_TRUE(ddit::plain::acceleration_quantiles({none, none, none, none}, {1}, 0.4).empty());
}

TEST(Plain, NamesTheArgument) {
  const std::vector<float> z(48);
  const Cells cells = Cells::from_packed(z.data(), 1, 2, 2, 3);
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const auto error_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const auto embed = [&](const Cells& view, int64_t D, int64_t scale) {
    return error_of([&] { ddit::plain::patch_embed(view, z.data(), nullptr, D, scale); });
  };
  EXPECT_EQ(embed(cells, 1, 0), "patch_embed: scale must be at least 1, got 0");
  EXPECT_EQ(embed(cells, 0, 1), "patch_embed: D must be at least 1, got 0");
  EXPECT_NE(embed(cells, 1, kMost).find("a patch at this scale must have fewer elements"), std::string::npos);
  EXPECT_NE(embed(cells, kMost, 1).find("weight must have fewer elements"), std::string::npos);
  Cells bad = cells;
  bad.data = nullptr;
  EXPECT_EQ(embed(bad, 1, 1), "patch_embed: cells must point to a latent, got null");
  bad = cells;
  bad.strides[2] = -1;
  EXPECT_NE(embed(bad, 1, 1).find("strides must not be negative, got [48, 48, -1"), std::string::npos);
  bad = cells;
  bad.sizes[3] = 0;
  EXPECT_NE(embed(bad, 1, 1).find("must not be empty but for the batch, got [1, 1, 2, 0"), std::string::npos);
  bad = cells;
  bad.sizes[6] = 3;
  EXPECT_NE(embed(bad, 1, 1).find("must have square patches"), std::string::npos);
  EXPECT_NE(
      error_of([&] { Cells::contiguous(z.data(), {kMost, 1, kMost, 1, 1, 1, 1}); }).find("fewer elements"),
      std::string::npos);
  EXPECT_NE(
      error_of([&] { Cells::from_latents(z.data(), 1, 3, 1, 5, 4); }).find("multiples of p = 2, got 5 x 4"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              ddit::plain::patch_embed(cells, nullptr, nullptr, 1, 1);
            }).find("weight must be an array"),
            std::string::npos);
  const Cells other = Cells::from_packed(z.data(), 1, 4, 1, 3);
  EXPECT_NE(error_of([&] {
              ddit::plain::acceleration_quantiles({cells, cells, other, cells}, {1}, 0.4);
            }).find("z2 must have the sizes of z0"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              ddit::plain::acceleration_quantiles({cells, cells, cells, cells}, {1}, 1.5);
            }).find("quantile must be in [0, 1], got 1.5"),
            std::string::npos);
}

}  // namespace
}  // namespace ddit_test

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "kernels/acceleration_quantiles/cpu_plan.h"
#include "kernels/acceleration_quantiles/params.h"
#include "quantiles_reference.h"

namespace {

namespace kernel = ddit::kernels::acceleration_quantiles;
using namespace ddit_test;

template <class T>
struct Latents {
  std::array<std::vector<T>, 4> values;
  std::array<Shape, 4> strides;

  Latents(const Shape& sizes, const std::array<int, 7>& order, double mean = 0.0, double deviation = 1.0) {
    for (unsigned k = 0; k < 4; ++k) {
      values[k] = random_values<T>(count(sizes), k + 1, k == 0 ? mean : 0.0, deviation);
      strides[k] = dense_strides(sizes, order);
    }
  }
};

template <class T>
std::vector<float> quantiles(const Latents<T>& latents, const Shape& sizes, kernel::DType dtype,
                             const std::vector<int64_t>& scales, double quantile,
                             const kernel::ParallelFor& parallel_for = kernel::serial_for) {
  std::vector<float> output(static_cast<size_t>(sizes[0]) * scales.size(), -1.0f);
  kernel::Params params;
  for (int k = 0; k < 4; ++k) params.latents[k] = {latents.values[k].data(), latents.strides[k]};
  params.sizes = sizes;
  params.dtype = dtype;
  params.scales = scales.data();
  params.num_scales = static_cast<int64_t>(scales.size());
  params.quantile = quantile;
  params.output = output.data();
  kernel::acceleration_quantiles_cpu(params, parallel_for);
  return output;
}

template <class T>
void expect_as_reference(const Latents<T>& latents, const Shape& sizes, kernel::DType dtype,
                         const std::vector<int64_t>& scales, double quantile, double tolerance = 1e-5) {
  const auto expected = reference_quantiles<T>({latents.values[0].data(), latents.values[1].data(),
                                                latents.values[2].data(), latents.values[3].data()},
                                               latents.strides, sizes, scales, quantile);
  const std::vector<float> got = quantiles(latents, sizes, dtype, scales, quantile);
  for (size_t b = 0; b < expected.size(); ++b) {
    for (size_t k = 0; k < scales.size(); ++k) {
      EXPECT_NEAR(got[b * scales.size() + k], expected[b][k], tolerance * expected[b][k])
          << "sample " << b << ", scale " << scales[k];
    }
  }
}

TEST(AccelerationQuantiles, EveryLayoutAndRaggedGrid) {
  const std::vector<Shape> grids = {{1, 1, 8, 8, 16, 2, 2},  {2, 3, 7, 9, 16, 2, 2}, {1, 2, 5, 6, 17, 2, 2},
                                    {2, 1, 3, 2, 5, 1, 1},   {1, 2, 5, 4, 4, 3, 3},  {1, 1, 1, 1, 1, 2, 2},
                                    {1, 2, 37, 35, 16, 2, 2}};  // several bands a frame, long rows
  for (const Shape& sizes : grids) {
    for (const auto& order : {kPackedOrder, kPlanarOrder, kChannelsLast, kShuffledOrder}) {
      SCOPED_TRACE(testing::PrintToString(sizes) + " in order " + testing::PrintToString(order));
      expect_as_reference(Latents<float>(sizes, order), sizes, kernel::DType::kFloat32, {1, 2, 4}, 0.4);
      expect_as_reference(Latents<double>(sizes, order), sizes, kernel::DType::kFloat64, {1, 2, 4}, 0.4,
                          1e-6);
    }
  }
}

TEST(AccelerationQuantiles, ScalesInAnyOrderNestedOrNot) {
  const Shape sizes{1, 2, 11, 13, 6, 2, 2};
  const Latents<float> latents(sizes, kPlanarOrder);
  for (const std::vector<int64_t>& scales :
       std::vector<std::vector<int64_t>>{{4, 2, 1},
                                         {2, 2},
                                         {3},
                                         {2, 3},
                                         {2, 3, 6},
                                         {4, 6},
                                         {5, 7, 10},
                                         {11, 13},
                                         {1000, 3, int64_t{1} << 62},
                                         {int64_t{1} << 32, int64_t{1} << 33}}) {
    SCOPED_TRACE(testing::PrintToString(scales));
    expect_as_reference(latents, sizes, kernel::DType::kFloat32, scales, 0.4);
  }
}

TEST(AccelerationQuantiles, ScalesBeyondTheFrameAreTheFrame) {
  const std::vector<int64_t> scales{int64_t{1} << 32, 4, int64_t{1} << 33, 13};
  kernel::Params params;
  params.sizes = {1, 2, 11, 13, 6, 2, 2};
  params.scales = scales.data();
  params.num_scales = static_cast<int64_t>(scales.size());
  const kernel::Plan plan = kernel::make_plan(params);
  ASSERT_EQ(plan.levels.size(), 3u);
  EXPECT_EQ(plan.levels.back().scale, 13);
}

TEST(AccelerationQuantiles, QuantilesBetweenAndAtTheEnds) {
  const Shape sizes{2, 1, 6, 6, 4, 2, 2};
  const Latents<float> latents(sizes, kPackedOrder);
  for (const double quantile : {0.0, 0.2, 0.37, 0.5, 0.999, 1.0}) {
    expect_as_reference(latents, sizes, kernel::DType::kFloat32, {1, 2, 4}, quantile);
  }
}

// A sum of squares minus a squared mean would leave nothing of these deviations in float32.
TEST(AccelerationQuantiles, ALargeMeanDoesNotDrownTheDeviation) {
  const Shape sizes{1, 1, 8, 9, 16, 2, 2};
  for (const auto& order : {kPackedOrder, kPlanarOrder, kShuffledOrder}) {
    Latents<float> latents(sizes, order, 1e4, 1e-2);
    for (int k = 1; k < 4; ++k) std::fill(latents.values[k].begin(), latents.values[k].end(), 0.0f);
    expect_as_reference(latents, sizes, kernel::DType::kFloat32, {1, 2, 4, 8}, 0.4);
  }
}

// All the 16-bit patterns, as constant latents plus one: the deviation of {x, 0, 0, 0} is |x| sqrt(3) / 4.
template <class Decode>
void expect_decodes(kernel::DType dtype, const Decode& decode) {
  const Shape sizes{1 << 16, 1, 1, 1, 1, 2, 2};
  Latents<uint16_t> latents(sizes, kPackedOrder);
  for (auto& values : latents.values) std::fill(values.begin(), values.end(), uint16_t{0});
  for (int bits = 0; bits < 1 << 16; ++bits) latents.values[0][4 * bits] = static_cast<uint16_t>(bits);
  const std::vector<float> got = quantiles(latents, sizes, dtype, {1}, 0.5);
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const double value = decode(bits);
    if (!std::isfinite(value)) {
      EXPECT_TRUE(std::isnan(got[bits])) << bits;
    } else if (std::abs(value) > 1e-15 && std::abs(value) < 1e15) {  // the square is a normal float32
      EXPECT_NEAR(got[bits], std::abs(value) * std::sqrt(3.0) / 4.0, 1e-6 * std::abs(value)) << bits;
    }
  }
}

TEST(AccelerationQuantiles, EveryFloat16) {
  expect_decodes(kernel::DType::kFloat16, [](int bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) return std::numeric_limits<double>::quiet_NaN();
    return exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  });
}

TEST(AccelerationQuantiles, EveryBFloat16) {
  expect_decodes(kernel::DType::kBFloat16, [](int bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return static_cast<double>(value);
  });
}

TEST(AccelerationQuantiles, NaNStaysInItsSample) {
  const Shape sizes{3, 2, 6, 6, 4, 2, 2};
  for (const size_t at : {size_t{0}, size_t{100}, size_t{2 * 6 * 6 * 16 - 1}}) {
    Latents<float> latents(sizes, kPackedOrder);
    const size_t sample = static_cast<size_t>(latents.strides[0][0]);
    latents.values[2][sample + at] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> got = quantiles(latents, sizes, kernel::DType::kFloat32, {1, 4}, 0.4);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i / 2 == 1) << i;
  }
}

TEST(AccelerationQuantiles, AnEmptyBatchWritesNothing) {
  const Shape sizes{0, 1, 4, 4, 4, 2, 2};
  EXPECT_TRUE(
      quantiles(Latents<float>(sizes, kPackedOrder), sizes, kernel::DType::kFloat32, {1, 2}, 0.4).empty());
}

TEST(AccelerationQuantiles, TheSplitOfTheWorkDoesNotShow) {
  const Shape sizes{2, 3, 37, 35, 16, 2, 2};  // several bands a frame
  const Latents<float> latents(sizes, kPlanarOrder);
  const std::vector<int64_t> scales{1, 2, 3, 4};
  const auto one_by_one = [](int64_t begin, int64_t end, int64_t, const kernel::RangeBody& body) {
    std::vector<std::thread> threads;
    for (int64_t i = begin; i < end; ++i) threads.emplace_back([&body, i] { body(i, i + 1); });
    for (std::thread& thread : threads) thread.join();
  };
  EXPECT_EQ(quantiles(latents, sizes, kernel::DType::kFloat32, scales, 0.4),
            quantiles(latents, sizes, kernel::DType::kFloat32, scales, 0.4, one_by_one));
}

TEST(AccelerationQuantiles, NamesABadArgument) {
  EXPECT_EQ(kernel::argument_error({1, 2}, 0.4), "");
  EXPECT_EQ(kernel::argument_error({}, 0.4), "scales must name at least one patch scale, got []");
  EXPECT_EQ(kernel::argument_error({1, 0}, 0.4), "scales must be at least 1, got 0 at index 1");
  EXPECT_EQ(kernel::argument_error({1}, 1.5), "quantile must be in [0, 1], got 1.5");
  EXPECT_EQ(kernel::argument_error({1}, std::nan("")), "quantile must be in [0, 1], got nan");
}

}  // namespace

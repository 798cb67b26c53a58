#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu_numbers.h"

namespace {

using namespace ddit::kernels;

template <class T>
uint16_t bits_of_rounded(float value) {
  return encode<T>(value).bits;
}

// Every number goes there and back, subnormal ones and infinities, too; what lies between two goes to the
// nearer one, from the middle to the even one.
template <class T>
void expect_to_nearest(uint16_t infinity) {
  for (uint16_t bits = 0; bits < infinity; ++bits) {
    const float here = decode(T{bits}), next = decode(T{static_cast<uint16_t>(bits + 1)});
    ASSERT_EQ(bits_of_rounded<T>(here), bits);
    ASSERT_EQ(bits_of_rounded<T>(-here), bits | 0x8000u);
    // Beyond the largest number as if there were one more.
    const float step = std::isinf(next) ? here - decode(T{static_cast<uint16_t>(bits - 1)}) : next - here;
    const float middle = here + step / 2;
    const float below = std::nextafter(middle, 0.0f);
    const float above = std::nextafter(middle, std::numeric_limits<float>::infinity());
    ASSERT_EQ(bits_of_rounded<T>(below), bits) << here;
    ASSERT_EQ(bits_of_rounded<T>(middle), bits + (bits & 1)) << here;
    ASSERT_EQ(bits_of_rounded<T>(above), bits + 1) << here;
  }
  const float most = std::numeric_limits<float>::infinity();
  EXPECT_EQ(bits_of_rounded<T>(most), infinity);
  EXPECT_EQ(bits_of_rounded<T>(-most), infinity | 0x8000u);
  EXPECT_TRUE(std::isnan(decode(encode<T>(std::nanf("")))));
  EXPECT_TRUE(std::isnan(decode(encode<T>(float_from_bits(0x7f800001u)))));  // all set bits are cut off
}

TEST(CpuNumbers, BFloat16IsRoundedToNearest) { expect_to_nearest<BFloat16>(0x7f80); }

TEST(CpuNumbers, Float16IsRoundedToNearest) { expect_to_nearest<Float16>(0x7c00); }

TEST(CpuNumbers, WideNumbersStayAsTheyAre) {
  EXPECT_EQ(encode<float>(0.1f), 0.1f);
  EXPECT_EQ(encode<double>(0.1), 0.1);
}

}  // namespace

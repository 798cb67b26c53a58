// What stands in for CUDA's 16-bit numbers.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gtest/gtest.h>

namespace {

TEST(DeviceHeaders, SixteenBitNumbersRoundToTheNearest) {
  for (unsigned bits = 0; bits < 1u << 16; ++bits) {
    const __half half{static_cast<uint16_t>(bits)};
    const __nv_bfloat16 brain{static_cast<uint16_t>(bits)};
    const float value = __half2float(half), wide = __bfloat162float(brain);
    EXPECT_TRUE(value != value || __float2half(value).bits == half.bits) << bits;
    EXPECT_TRUE(wide != wide || __float2bfloat16(wide).bits == brain.bits) << bits;
  }
  // Half-way between two neighbours: the even one. 1 + 2^-11 and 1 + 3 * 2^-11; 1 + 2^-8 and 1 + 3 * 2^-8.
  EXPECT_EQ(__float2half(1.0f + 0x1p-11f).bits, 0x3c00u);
  EXPECT_EQ(__float2half(1.0f + 0x3p-11f).bits, 0x3c02u);
  EXPECT_EQ(__float2half(0x1p-25f).bits, 0u);
  EXPECT_EQ(__float2half(0x3p-25f).bits, 2u);
  EXPECT_EQ(__float2half(65519.0f).bits, 0x7bffu);
  EXPECT_EQ(__float2half(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(__float2bfloat16(1.0f + 0x1p-8f).bits, 0x3f80u);
  EXPECT_EQ(__float2bfloat16(1.0f + 0x3p-8f).bits, 0x3f82u);
}

}  // namespace

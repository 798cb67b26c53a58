// Numbers of every dtype as the CPU computes with them, and back.
#pragma once

#include <cstdint>
#include <cstring>

namespace ddit::kernels {

// The 16-bit formats are decoded by integer arithmetic, so that the loops vectorise on every x86 and ARM
// level without compiler support for these types.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float decode(float value) { return value; }
inline double decode(double value) { return value; }
inline float decode(BFloat16 value) { return float_from_bits(uint32_t{value.bits} << 16); }
inline float decode(Float16 value) {
  const uint32_t sign = (uint32_t{value.bits} & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t{value.bits} & 0x7fffu;
  // Masks instead of branches, which would keep the loops from being vectorised.
  const uint32_t subnormal = 0u - uint32_t{magnitude < 0x0400u};
  const uint32_t special = 0u - uint32_t{magnitude >= 0x7c00u};
  // Exponent biases differ by 112; infinity and NaN take the largest exponent.
  const uint32_t normal_bits = (magnitude << 13) + (112u << 23) + (special & (112u << 23));
  // Subnormals and zero are converted as the integers they are: float32 subnormals would be slow to multiply.
  const float as_integer = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  uint32_t subnormal_bits;
  std::memcpy(&subnormal_bits, &as_integer, sizeof(subnormal_bits));
  return float_from_bits(sign | (subnormal_bits & subnormal) | (normal_bits & ~subnormal));
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// To nearest, ties to even; NaN stays NaN. Masks instead of branches, as above.
inline BFloat16 to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t nan = 0u - uint32_t{(bits & 0x7fffffffu) > 0x7f800000u};
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>((rounded & ~nan) | (0x7fc0u & nan))};
}

inline Float16 to_float16(float value) {
  const uint32_t sign = bits_of(value) >> 16 & 0x8000u, magnitude = bits_of(value) & 0x7fffffffu;
  const uint32_t subnormal = 0u - uint32_t{magnitude < 0x38800000u};  // 2^-14
  const uint32_t large = 0u - uint32_t{magnitude >= 0x47800000u};     // 2^16
  const uint32_t nan = 0u - uint32_t{magnitude > 0x7f800000u};
  // Exponent biases differ by 112. What rounds up to 2^16 gets the exponent of infinity by itself.
  const uint32_t normal_bits = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Added to a half, a number below 2^-14 is rounded to the last place of a float there: 2^-24.
  const uint32_t subnormal_bits = bits_of(float_from_bits(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t finite = (subnormal_bits & subnormal) | (normal_bits & ~subnormal);
  const uint32_t special = 0x7c00u | (0x0200u & nan);
  return {static_cast<uint16_t>(sign | (special & large) | (finite & ~large))};
}

template <class T, class Number>
inline T encode(Number value) {
  return static_cast<T>(value);
}
template <>
inline BFloat16 encode(float value) {
  return to_bfloat16(value);
}
template <>
inline Float16 encode(float value) {
  return to_float16(value);
}

}  // namespace ddit::kernels

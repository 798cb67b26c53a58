// The part of CUDA's header that the kernels use.
#pragma once

#include "device_builtins.h"

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const int sign = value.bits >> 15, exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  float magnitude;
  if (exponent == 31) {
    magnitude = mantissa ? NAN : INFINITY;
  } else {
    magnitude = exponent ? std::ldexp(1024.0f + static_cast<float>(mantissa), exponent - 25)
                         : std::ldexp(static_cast<float>(mantissa), -24);
  }
  return sign ? -magnitude : magnitude;
}

// To nearest, ties to even.
inline __half __float2half(float value) {
  const uint32_t sign = __float_as_uint(value) >> 16 & 0x8000u;
  if (value != value) return {static_cast<uint16_t>(0x7fff)};
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  // Steps of 2^-24 below the smallest normal number, of 2^(e - 10) for a magnitude in [2^e, 2^(e+1)) above
  // it.
  const int exponent = std::max(magnitude == 0.0f ? -14 : std::ilogb(magnitude), -14);
  const uint32_t steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  // `steps` holds the leading bit of a normal number: it counts the exponent up by one.
  return {static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + steps))};
}
inline __half __float2half_rn(float value) { return __float2half(value); }

inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half(x), __float2half(y)}; }

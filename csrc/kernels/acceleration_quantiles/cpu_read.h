// Reading four latents once: third differences of a run of elements, in the accumulator type.
#pragma once

#include <cstdint>
#include <cstring>

namespace ddit::kernels::acceleration_quantiles {

// The 16-bit formats are decoded by integer arithmetic, so that the loops vectorise on every x86 and ARM
// level without compiler support for these types.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

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

// z0 - 3 z1 + 3 z2 - z3. Latents of neighbouring steps are close, so the two differences are (nearly) exact,
// where 3 z1 and 3 z2 alone would each be rounded.
template <class A>
inline A third_difference(A z0, A z1, A z2, A z3) {
  return (z0 - z3) + A(3) * (z2 - z1);
}

template <class T>
struct Sources {
  const T* z[4];

  Sources shifted(const int64_t (&offset)[4]) const {
    return {{z[0] + offset[0], z[1] + offset[1], z[2] + offset[2], z[3] + offset[3]}};
  }
};

template <class T>
inline Accumulator<T> third_difference_at(const Sources<T>& from) {
  return third_difference(decode(*from.z[0]), decode(*from.z[1]), decode(*from.z[2]), decode(*from.z[3]));
}

// out[i] = the third difference at element i of a contiguous run, minus origin[i] or minus one origin.
template <class T, class A>
inline void read_run(const Sources<T>& from, int64_t count, const A* __restrict__ origin,
                     A* __restrict__ out) {
  const T* z0 = from.z[0];
  const T* z1 = from.z[1];
  const T* z2 = from.z[2];
  const T* z3 = from.z[3];
  for (int64_t i = 0; i < count; ++i) {
    out[i] = third_difference(decode(z0[i]), decode(z1[i]), decode(z2[i]), decode(z3[i])) - origin[i];
  }
}

template <class T, class A>
inline void read_run(const Sources<T>& from, int64_t count, A origin, A* __restrict__ out) {
  const T* z0 = from.z[0];
  const T* z1 = from.z[1];
  const T* z2 = from.z[2];
  const T* z3 = from.z[3];
  for (int64_t i = 0; i < count; ++i) {
    out[i] = third_difference(decode(z0[i]), decode(z1[i]), decode(z2[i]), decode(z3[i])) - origin;
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

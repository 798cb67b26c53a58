// Reading four latents once: third differences of a run of elements, in the accumulator type.
#pragma once

#include <cstdint>

#include "kernels/cpu_numbers.h"

namespace ddit::kernels::acceleration_quantiles {

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

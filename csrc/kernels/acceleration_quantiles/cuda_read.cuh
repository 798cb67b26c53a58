// Reading the four latents once: third differences in float32, from any strides.
#pragma once

#include <cstdint>

#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/cuda/numbers.cuh"

namespace ddit::kernels::acceleration_quantiles {

// Two neighbouring pixels, read by one instruction.
template <class T>
struct __align__(2 * sizeof(T)) Pair {
  T x, y;
};

// z0 - 3 z1 + 3 z2 - z3, so that latents of neighbouring steps, which are close, lose nothing: the two
// differences are (nearly) exact, where 3 z1 and 3 z2 alone would each be rounded.
__device__ __forceinline__ float third_difference(float z0, float z1, float z2, float z3) {
  return (z0 - z3) + 3.0f * (z2 - z1);
}

// The four latents at one element.
template <class T>
struct Sources {
  const T* z[4];

  __device__ __forceinline__ Sources moved(const Task& task, int axis, int64_t count) const {
    Sources to;
#pragma unroll
    for (int k = 0; k < 4; ++k) to.z[k] = z[k] + task.strides[k][axis] * count;
    return to;
  }

  __device__ __forceinline__ float difference() const {
    return third_difference(cuda::to_float(*z[0]), cuda::to_float(*z[1]), cuda::to_float(*z[2]),
                            cuda::to_float(*z[3]));
  }

  // The differences of this pixel and its right neighbour.
  __device__ __forceinline__ void differences(float* out) const {
    Pair<T> pair[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) pair[k] = *reinterpret_cast<const Pair<T>*>(z[k]);
    out[0] = third_difference(cuda::to_float(pair[0].x), cuda::to_float(pair[1].x), cuda::to_float(pair[2].x),
                              cuda::to_float(pair[3].x));
    out[1] = third_difference(cuda::to_float(pair[0].y), cuda::to_float(pair[1].y), cuda::to_float(pair[2].y),
                              cuda::to_float(pair[3].y));
  }
};

template <class T>
__device__ __forceinline__ Sources<T> sources_of(const Task& task) {
  Sources<T> from;
#pragma unroll
  for (int k = 0; k < 4; ++k) from.z[k] = static_cast<const T*>(task.latents[k]);
  return from;
}

}  // namespace ddit::kernels::acceleration_quantiles

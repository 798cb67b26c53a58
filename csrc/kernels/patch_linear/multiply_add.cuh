// Multiply-adds of the tensor cores, one shape for every element type: a step is 32 bytes of a row, 16
// elements of 2 bytes or 8 of 4. load_matrices moves 4-byte words, so it lays out both alike, as their
// multiply-adds want them.
//
// float32 is made of three products of tf32 numbers, in the same kernel. On A100 and H100 that is more than
// twice the peak of plain multiply-adds. An infinity comes out as NaN, and so does what rounds to one, from
// 2^128 - 2^116 on. Tensor cores were found to cut off where they add (the PTX manual leaves their rounding
// open): over the whole of K these errors would outgrow float32's own by far, so a slice is summed up from
// zero, and its sums are added as ordinary numbers, rounded to the nearest. Sums of 16-bit numbers stay in
// the tensor cores: rounding their result costs much more.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/tensor_core.cuh"

namespace ddit::kernels::patch_linear {

template <class T>
constexpr bool kSumsBySlice = std::is_same_v<T, float>;

// d [16, 8] += a [16, 32 bytes] b [8, 32 bytes]^T
template <class T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda::multiply_16x8x16<T>(d, a, b);
}

// Floats as the sum of two tf32 numbers, up to 2^-23 of each.
template <int kWords>
struct SplitFloats {
  uint32_t high[kWords], low[kWords];

  __device__ __forceinline__ explicit SplitFloats(const uint32_t (&words)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const float value = __uint_as_float(words[i]);
      high[i] = cuda::round_to_tf32(value);
      low[i] = cuda::round_to_tf32(value - __uint_as_float(high[i] & cuda::kTf32Bits));
    }
  }
};

// The small products first; low x low is left out, at most 2^-22 of the whole.
template <>
__device__ __forceinline__ void multiply_add<float>(float (&d)[4], const uint32_t (&a)[4],
                                                    const uint32_t (&b)[2]) {
  const SplitFloats<4> left(a);
  const SplitFloats<2> right(b);
  cuda::multiply_16x8x8_tf32(d, left.low, right.high);
  cuda::multiply_16x8x8_tf32(d, left.high, right.low);
  cuda::multiply_16x8x8_tf32(d, left.high, right.high);
}

}  // namespace ddit::kernels::patch_linear

// Numbers of every dtype as a GPU computes with them, and back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ddit::kernels::cuda {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

// Two neighbours; `from` is aligned to both. A bfloat16 is the upper half of a float32.
__device__ __forceinline__ float2 load_pair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ float2 load_pair(const __nv_bfloat16* from) {
  const unsigned bits = *reinterpret_cast<const unsigned*>(from);
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
__device__ __forceinline__ float2 load_pair(const __half* from) {
  return __half22float2(*reinterpret_cast<const __half2*>(from));
}

// To nearest, ties to even.
__device__ __forceinline__ void store(float value, float* to) { *to = value; }
__device__ __forceinline__ void store(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }
__device__ __forceinline__ void store(float value, __half* to) { *to = __float2half_rn(value); }

// Two neighbours, by one instruction; `to` is aligned to both.
__device__ __forceinline__ void store_pair(float x, float y, float* to) {
  *reinterpret_cast<float2*>(to) = make_float2(x, y);
}
__device__ __forceinline__ void store_pair(float x, float y, __nv_bfloat16* to) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x, y);
}
__device__ __forceinline__ void store_pair(float x, float y, __half* to) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(x, y);
}

}  // namespace ddit::kernels::cuda

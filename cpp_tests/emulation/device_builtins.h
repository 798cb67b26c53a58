// What nvcc knows by itself, for g++: put before every emulated .cu file by -include.
#pragma once
#define DDIT_EMULATION 1

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// __shared__ is left out: several blocks may be under way. cuda::block_shared and cuda::dynamic_shared
// (kernels/cuda/launch.cuh) give each its own memory, filled with a pattern when it starts.

inline constexpr uint3& threadIdx = ddit_emulation::thread_index;
inline constexpr uint3& blockIdx = ddit_emulation::block_index;
inline constexpr dim3& blockDim = ddit_emulation::block_size;
inline constexpr dim3& gridDim = ddit_emulation::grid_size;
#define warpSize 32

// ---- Vector types
// ---------------------------------------------------------------------------------------------
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

// ---- Barriers, and what the lanes of a warp tell each other
// ----------------------------------------------------
#define __syncthreads() ddit_emulation::block_barrier(__FILE__, __LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ddit_emulation::warp_exchange(ddit_emulation::WarpOperation::kSync, mask, 0);
}

namespace ddit_emulation {

inline int lane() { return linear_thread() % kWarp; }

template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 32 and 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t taken = warp_exchange(WarpOperation::kShuffle, mask, bits)[source];
  T result;
  std::memcpy(&result, &taken, sizeof(T));
  return result;
}

// The lanes of a group of `width`, a power of two, that `lane()` is in: [first, first + width).
inline int first_of_group(int width) { return lane() & ~(width - 1); }

}  // namespace ddit_emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = ddit_emulation::first_of_group(width);
  return ddit_emulation::shuffle(mask, value, first | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = ddit_emulation::lane(), source = lane ^ bits;
  const bool inside = source < ddit_emulation::first_of_group(width) + width;
  return ddit_emulation::shuffle(mask, value, inside ? source : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ddit_emulation::lane(), source = lane + static_cast<int>(delta);
  const bool inside = source < ddit_emulation::first_of_group(width) + width;
  return ddit_emulation::shuffle(mask, value, inside ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ddit_emulation::lane(), source = lane - static_cast<int>(delta);
  return ddit_emulation::shuffle(mask, value,
                                 source >= ddit_emulation::first_of_group(width) ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* votes =
      ddit_emulation::warp_exchange(ddit_emulation::WarpOperation::kVote, mask, predicate ? 1 : 0);
  unsigned result = 0;
  for (int l = 0; l < 32; ++l) result |= (mask >> l & 1 && votes[l]) ? 1u << l : 0u;
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

namespace ddit_emulation {

template <class Join>
uint32_t reduce(unsigned mask, uint32_t value, const Join& join) {
  const uint64_t* values = warp_exchange(WarpOperation::kReduce, mask, value);
  uint32_t result = value;
  for (int l = 0; l < kWarp; ++l) {
    if (mask >> l & 1 && l != lane()) result = join(result, static_cast<uint32_t>(values[l]));
  }
  return result;
}

}  // namespace ddit_emulation

inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return ddit_emulation::reduce(mask, value, [](uint32_t a, uint32_t b) { return a + b; });
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return ddit_emulation::reduce(mask, value, [](uint32_t a, uint32_t b) { return std::min(a, b); });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return ddit_emulation::reduce(mask, value, [](uint32_t a, uint32_t b) { return std::max(a, b); });
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------- No
// thread is interrupted between two waits, so plain reads and writes are atomic.
template <class T>
T atomicAdd(T* target, T value) {
  const T old = *target;
  *target = old + value;
  return old;
}
template <class T>
T atomicMax(T* target, T value) {
  const T old = *target;
  *target = std::max(old, value);
  return old;
}
template <class T>
T atomicMin(T* target, T value) {
  const T old = *target;
  *target = std::min(old, value);
  return old;
}
template <class T>
T __ldg(const T* source) {
  if (reinterpret_cast<uintptr_t>(source) % sizeof(T) != 0) {
    ddit_emulation::fail("a read of " + std::to_string(sizeof(T)) + " bytes is not aligned to them");
  }
  return *source;
}
template <class T>
T __ldcg(const T* source) {
  return *source;
}

// ---- Arithmetic
// -------------------------------------------------------------------------------------------------
using std::max;
using std::min;
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

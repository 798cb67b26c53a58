// The product of two tiles by a warp, and what a thread holds of it.
//
// A warp's sums are fragments of 16 x 8; a thread holds of each the pair of columns 2 * (lane % 4) in the
// rows lane / 4 and lane / 4 + 8.
#pragma once

#include "kernels/patch_linear/multiply_add.cuh"
#include "kernels/patch_linear/tile.cuh"

namespace ddit::kernels::patch_linear {

template <int kRowFragments, int kColFragments>
struct WarpSums {
  static constexpr int kRows = 16 * kRowFragments, kCols = 8 * kColFragments;
  float values[kRowFragments][kColFragments][4] = {};

  __device__ __forceinline__ void add(const WarpSums& other) {
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
      for (int n = 0; n < kColFragments; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[m][n][i] += other.values[m][n][i];
      }
    }
  }

  // Every row of a column becomes of_column(column).
  template <class OfColumn>
  __device__ __forceinline__ void fill(OfColumn of_column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kColFragments; ++n) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const float value = of_column(8 * n + 2 * (lane % 4) + side);
#pragma unroll
        for (int m = 0; m < kRowFragments; ++m) values[m][n][side] = values[m][n][side + 2] = value;
      }
    }
  }

  // body(row, column, sum of that column, sum of the next one), both numbers inside the warp's part
  template <class Body>
  __device__ __forceinline__ void for_each_pair(Body body) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m) {
#pragma unroll
      for (int n = 0; n < kColFragments; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          body(16 * m + 8 * half + lane / 4, 8 * n + 2 * (lane % 4), values[m][n][2 * half],
               values[m][n][2 * half + 1]);
        }
      }
    }
  }
};

// What a slice's products are added to: zeros, which end_slice adds to the sums, or the sums themselves.
template <class T, class Sums>
__device__ __forceinline__ std::conditional_t<kSumsBySlice<T>, Sums, Sums&> begin_slice(Sums& sums) {
  if constexpr (kSumsBySlice<T>) {
    return Sums{};
  } else {
    return sums;
  }
}
template <class T, class Sums>
__device__ __forceinline__ void end_slice(Sums& sums, const Sums& slice) {
  if constexpr (kSumsBySlice<T>) sums.add(slice);
}

// The left side of step `step`, 32 bytes, of a tile, from row `row` on.
template <int kRowFragments>
struct LeftFragments {
  uint32_t words[kRowFragments][4];

  __device__ __forceinline__ LeftFragments(char* tile, int row, int step) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m) {
      cuda::load_matrices<4, false>(words[m],
                                    tile_at(tile, row + 16 * m + lane % 16, 32 * step + 16 * (lane / 16)));
    }
  }
};

// sums += left * (rows [row, row + kCols) of `tile`)^T, of which only `valid` rows need to be looked at.
template <class T, int kRowFragments, int kColFragments>
__device__ __forceinline__ void multiply_step(WarpSums<kRowFragments, kColFragments>& sums,
                                              const LeftFragments<kRowFragments>& left, char* tile, int row,
                                              int valid, int step) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kColFragments; n += 2) {
    if (8 * n >= valid) break;
    uint32_t words[4];
    cuda::load_matrices<4, false>(
        words, tile_at(tile, row + 8 * n + lane % 8 + 8 * (lane / 16), 32 * step + 16 * (lane / 8 % 2)));
    const uint32_t right[2][2] = {{words[0], words[1]}, {words[2], words[3]}};
#pragma unroll
    for (int m = 0; m < kRowFragments; ++m) {
      multiply_add<T>(sums.values[m][n], left.words[m], right[0]);
      multiply_add<T>(sums.values[m][n + 1], left.words[m], right[1]);
    }
  }
}

// Two neighbours at once, rounded to T.
__device__ __forceinline__ void store_pair(char* to, float first, float second, __nv_bfloat16) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(first, second);
}
__device__ __forceinline__ void store_pair(char* to, float first, float second, __half) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ void store_pair(char* to, float first, float second, float) {
  *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }

}  // namespace ddit::kernels::patch_linear

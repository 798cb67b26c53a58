// A tile in shared memory: rows of 128 bytes, the slice of the inner dimension that is worked on at a time.
//
// The eight 16-byte chunks of a row are permuted by the row's number, so that ldmatrix, which reads one chunk
// of eight rows, and the copies, which write whole rows, both touch every bank once.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/patch_linear/patches.cuh"

namespace ddit::kernels::patch_linear {

constexpr int kSliceBytes = 128;
template <class T>
constexpr int kSlice = kSliceBytes / static_cast<int>(sizeof(T));  // elements

// The byte `byte` of row `row` in a tile whose rows have kRowBytes, a multiple of 128.
template <int kRowBytes = kSliceBytes>
__device__ __forceinline__ char* tile_at(char* tile, int row, int byte) {
  return tile + row * kRowBytes + (byte ^ ((row & 7) << 4));
}

// Asynchronous where the hardware can: it copies no single 2-byte element.
template <int kBytes>
__device__ __forceinline__ void copy_to_tile(char* to, const char* from, bool inside) {
  if constexpr (kBytes >= 4) {
    cuda::copy_async<kBytes>(to, from, inside ? kBytes : 0);
  } else {
    *reinterpret_cast<uint16_t*>(to) = inside ? *reinterpret_cast<const uint16_t*>(from) : uint16_t{0};
  }
}

// Rows [row, row + tile_rows) and a slice from column `col` of a contiguous matrix [rows, cols]; zeros
// outside.
template <class T, int kThreads, int kBytes>
__device__ __forceinline__ void load_matrix_units(char* tile, int tile_rows, const T* matrix, int row,
                                                  int rows, int col, int cols) {
  constexpr int kUnits = kSliceBytes / kBytes;
  constexpr int kUnit = kBytes / static_cast<int>(sizeof(T));
  static_assert(kThreads % kUnits == 0, "a thread stays in its column");
  const int unit = threadIdx.x % kUnits;
  col += unit * kUnit;
  for (int r = threadIdx.x / kUnits; r < tile_rows; r += kThreads / kUnits) {
    const bool inside = row + r < rows && col < cols;
    const T* from = inside ? matrix + static_cast<int64_t>(row + r) * cols + col : matrix;
    copy_to_tile<kBytes>(tile_at(tile, r, unit * kBytes), reinterpret_cast<const char*>(from), inside);
  }
}

template <class T, int kThreads>
__device__ __forceinline__ void load_matrix(char* tile, int tile_rows, bool wide, const void* matrix, int row,
                                            int rows, int col, int cols) {
  const T* data = static_cast<const T*>(matrix);
  if (wide) {
    load_matrix_units<T, kThreads, 16>(tile, tile_rows, data, row, rows, col, cols);
  } else {
    load_matrix_units<T, kThreads, sizeof(T)>(tile, tile_rows, data, row, rows, col, cols);
  }
}

// A unit of features that the right edge cuts: the last pixel again.
template <class T, int kUnit>
__device__ __forceinline__ void load_cut_unit(char* to, const char* from, const Patches& patches,
                                              PatchFeature feature, int32_t last_x, bool inside) {
  const int32_t first_x = feature.x;
#pragma unroll 1
  for (int i = 0; i < kUnit; ++i) {
    feature.x = min(first_x + i, last_x);
    copy_to_tile<sizeof(T)>(to + i * sizeof(T), from + offset_of_feature(patches, feature), inside);
  }
}

// A slice from column `col` of kRows patches; zeros past column `cols`.
template <class T, int kThreads, int kRows, int kBytes>
__device__ __forceinline__ void load_patch_units(char* tile, const Patches& patches, const PatchPlace* places,
                                                 int col, int cols) {
  constexpr int kUnits = kSliceBytes / kBytes;
  constexpr int kUnit = kBytes / static_cast<int>(sizeof(T));
  static_assert(kThreads % kUnits == 0, "a thread stays in its column");
  const int unit = threadIdx.x % kUnits;
  col += unit * kUnit;
  const bool inside = col < cols;
  const PatchFeature feature = feature_of_column(patches, inside ? col : 0);
  const int64_t offset = offset_of_feature(patches, feature);
  for (int r = threadIdx.x / kUnits; r < kRows; r += kThreads / kUnits) {
    const PatchPlace place = places[r];
    char* to = tile_at(tile, r, unit * kBytes);
    const char* from = patches.data + place.origin;
    const PatchFeature clamped{feature.channel, min(feature.y, place.last_y), feature.x};
    if (feature.x + kUnit - 1 > place.last_x) {
      load_cut_unit<T, kUnit>(to, from, patches, clamped, place.last_x, inside);
    } else {
      const int64_t here = clamped.y == feature.y ? offset : offset_of_feature(patches, clamped);
      copy_to_tile<kBytes>(to, from + here, inside);
    }
  }
}

template <class T, int kThreads, int kRows>
__device__ __forceinline__ void load_patches(char* tile, int unit_bytes, const Patches& patches,
                                             const PatchPlace* places, int col, int cols) {
  if (unit_bytes == 16) {
    load_patch_units<T, kThreads, kRows, 16>(tile, patches, places, col, cols);
  } else if (unit_bytes == 8) {
    load_patch_units<T, kThreads, kRows, 8>(tile, patches, places, col, cols);
  } else if (unit_bytes == 4) {
    load_patch_units<T, kThreads, kRows, 4>(tile, patches, places, col, cols);
  } else if constexpr (sizeof(T) < 4) {
    load_patch_units<T, kThreads, kRows, sizeof(T)>(tile, patches, places, col, cols);
  }
}

template <int kBytes>
struct UnitOf;
template <>
struct UnitOf<2> {
  using Type = uint16_t;
};
template <>
struct UnitOf<4> {
  using Type = uint32_t;
};
template <>
struct UnitOf<8> {
  using Type = uint2;
};
template <>
struct UnitOf<16> {
  using Type = uint4;
};

// The first `rows` of kRows x kCols sums in shared memory, row by row as tile_at lays them, go to columns
// [col, col + kCols) of patches.
template <class T, int kThreads, int kCols, int kBytes>
__device__ __forceinline__ void store_patch_units(char* tile, int rows, const Patches& patches,
                                                  const PatchPlace* places, int col, int cols) {
  constexpr int kRowBytes = kCols * static_cast<int>(sizeof(T));
  constexpr int kUnits = kRowBytes / kBytes;
  constexpr int kUnit = kBytes / static_cast<int>(sizeof(T));
  static_assert(kThreads % kUnits == 0, "a thread stays in its column");
  using Unit = typename UnitOf<kBytes>::Type;
  const int unit = threadIdx.x % kUnits;
  col += unit * kUnit;
  if (col >= cols) return;
  const PatchFeature feature = feature_of_column(patches, col);
  const int64_t offset = offset_of_feature(patches, feature);
  for (int r = threadIdx.x / kUnits; r < rows; r += kThreads / kUnits) {
    const PatchPlace place = places[r];
    if (feature.y > place.last_y) continue;
    const char* from = tile_at<kRowBytes>(tile, r, unit * kBytes);
    char* origin = patches.data + place.origin;
    if (feature.x + kUnit - 1 <= place.last_x) {
      *reinterpret_cast<Unit*>(origin + offset) = *reinterpret_cast<const Unit*>(from);
      continue;
    }
#pragma unroll 1
    for (int i = 0; i < kUnit && feature.x + i <= place.last_x; ++i) {
      const PatchFeature pixel{feature.channel, feature.y, feature.x + i};
      *reinterpret_cast<T*>(origin + offset_of_feature(patches, pixel)) =
          *reinterpret_cast<const T*>(from + i * sizeof(T));
    }
  }
}

template <class T, int kThreads, int kCols>
__device__ __forceinline__ void store_patches(char* tile, int unit_bytes, int rows, const Patches& patches,
                                              const PatchPlace* places, int col, int cols) {
  if (unit_bytes == 16) {
    store_patch_units<T, kThreads, kCols, 16>(tile, rows, patches, places, col, cols);
  } else if (unit_bytes == 8) {
    store_patch_units<T, kThreads, kCols, 8>(tile, rows, patches, places, col, cols);
  } else if (unit_bytes == 4) {
    store_patch_units<T, kThreads, kCols, 4>(tile, rows, patches, places, col, cols);
  } else if constexpr (sizeof(T) < 4) {
    store_patch_units<T, kThreads, kCols, sizeof(T)>(tile, rows, patches, places, col, cols);
  }
}

}  // namespace ddit::kernels::patch_linear

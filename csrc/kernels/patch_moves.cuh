// Patches gathered from cells, or scattered to them, on a GPU: patch_embed's and patch_deembed's own part.
// Their products are the library's.
//
// A block moves some units (up to 16 bytes) of some patches. A thread stays with one unit, so it takes the
// feature apart into channel, row and column once; the block takes each patch apart once. In the loop over
// patches both are added up.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cuda/fast_div.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/patch_grid.h"
#include "kernels/patch_units.h"

namespace ddit::kernels::patch_moves {

constexpr int kThreads = 256;
constexpr int kMostPatches = 256;  // of a block

struct Moves {
  char *cells, *patches;
  // Strides of the cells, in bytes; row and column of cells, y and x of pixels inside one.
  int64_t sample_stride, frame_stride, row_stride, column_stride, channel_stride, y_stride, x_stride;
  cuda::FastDiv frames, patch_rows, patch_columns;
  cuda::FastDiv side, p;
  uint32_t scale, rows, columns;  // of cells
  uint32_t count, units;          // patches, and units of each
  int64_t patch_bytes;
  cuda::FastDiv block_units;  // of each patch in a block
  cuda::FastDiv unit_blocks;  // blocks that share a patch's units
  cuda::FastDiv patches_at_once;
  uint32_t block_patches;
  bool ragged;
  const float* factors;                      // of samples' channels; null where elements only move
  uint32_t sample_factors, channel_factors;  // the strides of these; 0 where all have the same
};

// What is beyond a ragged edge.
constexpr uint32_t kBelow = 1, kRight = 2;

struct alignas(16) Place {
  char* first;       // pixel of a patch
  uint32_t cut;      // the edges that cut it off
  uint32_t factors;  // of its sample, from the first one's
};

struct Places {
  Place of[kMostPatches];
};

__device__ __forceinline__ Place place_of_patch(const Moves& moves, uint32_t patch) {
  const uint32_t column = moves.patch_columns.split(patch) * moves.scale;
  const uint32_t row = moves.patch_rows.split(patch) * moves.scale;
  const uint32_t frame = moves.frames.split(patch);
  char* first = moves.cells + patch * moves.sample_stride + frame * moves.frame_stride +
                row * moves.row_stride + column * moves.column_stride;
  return {
      first,
      (moves.rows - row < moves.scale ? kBelow : 0u) | (moves.columns - column < moves.scale ? kRight : 0u),
      patch * moves.sample_factors};
}

// Where pixel row `y` or column `x` of a patch lies, from its first one.
__device__ __forceinline__ int64_t offset_of_pixel(const Moves& moves, uint32_t pixel, int64_t cell_stride,
                                                   int64_t pixel_stride) {
  const uint32_t inside = moves.p.split(pixel);
  return pixel * cell_stride + inside * pixel_stride;
}

// A unit of every patch.
struct Unit {
  uint32_t channel;  // of its first element
  int64_t offset;    // from the patch's first pixel, in bytes
  uint32_t
      beyond;  // the edges that it is beyond, in a patch that they cut off; of no meaning where none does
  int64_t up, back;  // from there to the last pixel row and column

  __device__ __forceinline__ Unit(const Moves& moves, uint32_t feature) {
    const uint32_t column = moves.side.split(feature), row = moves.side.split(feature);
    const int64_t y = offset_of_pixel(moves, row, moves.row_stride, moves.y_stride);
    const int64_t x = offset_of_pixel(moves, column, moves.column_stride, moves.x_stride);
    channel = feature;
    offset = channel * moves.channel_stride + y + x;
    const uint32_t rows_left = moves.rows % moves.scale * moves.p.divisor;
    const uint32_t columns_left = moves.columns % moves.scale * moves.p.divisor;
    beyond = (row >= rows_left ? kBelow : 0u) | (column >= columns_left ? kRight : 0u);
    up = offset_of_pixel(moves, rows_left - 1, moves.row_stride, moves.y_stride) - y;
    back = offset_of_pixel(moves, columns_left - 1, moves.column_stride, moves.x_stride) - x;
  }
};

template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using Type = uint16_t;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

// A unit that repeats one element.
template <class Unit, class Element>
__device__ __forceinline__ Unit repeated(Element element) {
  if constexpr (sizeof(Unit) == sizeof(Element)) {
    return element;
  } else {
    const uint32_t word = sizeof(Element) == 2 ? element * 0x10001u : element;
    if constexpr (sizeof(Unit) == 4) return word;
    if constexpr (sizeof(Unit) == 8) return make_uint2(word, word);
    if constexpr (sizeof(Unit) == 16) return make_uint4(word, word, word, word);
  }
}

// What becomes of a unit on its way to a patch: nothing. (patch_embed/scaled.cuh has another.)
template <int kBytes, int kElement>
struct Moved {
  using Read = typename Word<kBytes>::Type;
  using Element = typename Word<kElement>::Type;
  using Written = Read;

  __device__ __forceinline__ Moved(const Moves&, const Unit&) {}
  __device__ __forceinline__ Written operator()(Read read, const Place&) const { return read; }
};

// One unit of `count` patches, every patches_at_once'th from `place` on; `patch` is where it lies in the
// first one. kRagged: some of them may be cut off.
template <bool kGather, bool kRagged, class Way>
__device__ __forceinline__ void move_unit(const Moves& moves, const Unit& unit, const Place* place, int count,
                                          char* patch) {
  using Bytes = typename Way::Read;
  using Element = typename Way::Element;
  const Way way(moves, unit);
  const int at_once = static_cast<int>(moves.patches_at_once.divisor);
  const int64_t step = at_once * moves.patch_bytes;
#pragma unroll 4
  for (int i = 0; i < count; ++i, place += at_once, patch += step) {
    char* here = cuda::global_pointer(place->first) + unit.offset;
    const uint32_t over = kRagged ? place->cut & unit.beyond : 0u;
    if constexpr (kGather) {
      if (over & kBelow) here += unit.up;
      const Bytes read = over & kRight
                             ? repeated<Bytes>(__ldg(reinterpret_cast<const Element*>(here + unit.back)))
                             : __ldg(reinterpret_cast<const Bytes*>(here));
      *reinterpret_cast<typename Way::Written*>(patch) = way(read, *place);
    } else {
      const Bytes value = __ldg(reinterpret_cast<const Bytes*>(patch));
      if (!over) *reinterpret_cast<Bytes*>(here) = value;
    }
  }
}

template <bool kGather, class Way>
__device__ __forceinline__ void move_block(const Moves& moves) {
  constexpr int kElements = sizeof(typename Way::Read) / sizeof(typename Way::Element);
  Places& places = cuda::block_shared<Places>();
  uint32_t block = blockIdx.x;
  const uint32_t first_unit = moves.unit_blocks.split(block) * moves.block_units.divisor;
  const uint32_t first = block * moves.block_patches;
  const uint32_t count = min(moves.block_patches, moves.count - first);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) places.of[i] = place_of_patch(moves, first + i);
  __syncthreads();

  uint32_t start = threadIdx.x;
  const uint32_t index = first_unit + moves.block_units.split(start);
  if (index >= moves.units || start >= moves.patches_at_once.divisor) return;
  const Unit unit(moves, index * kElements);
  char* patch = moves.patches + (first + start) * moves.patch_bytes +
                int64_t{index} * int64_t{sizeof(typename Way::Written)};
  const Place* place = places.of + start;
  const int turns =
      static_cast<int>(moves.patches_at_once.quotient(count + moves.patches_at_once.divisor - 1 - start));
  if (moves.ragged) {
    move_unit<kGather, true, Way>(moves, unit, place, turns, patch);
  } else {
    move_unit<kGather, false, Way>(moves, unit, place, turns, patch);
  }
}

template <bool kGather, int kBytes, int kElement>
__global__ void __launch_bounds__(kThreads) move_patches(const __grid_constant__ Moves moves) {
  move_block<kGather, Moved<kBytes, kElement>>(moves);
}

// ---- On the host
// -------------------------------------------------------------------------------------------

// `strides` of the cells, in elements. The smaller a launch, the fewer patches a block has: each
// multiprocessor gets two blocks where there is work for as many.
inline Moves plan(void* cells, const std::array<int64_t, 7>& strides, void* patches, int64_t element_size,
                  const PatchGrid& grid, int bytes) {
  const auto stride = [&](int axis) { return strides[static_cast<size_t>(axis)] * element_size; };
  const int64_t units = grid.features() * element_size / bytes, count = grid.patches();
  const int64_t block_units = std::min<int64_t>(units, kThreads), at_once = kThreads / block_units;
  const int64_t unit_blocks = (units + block_units - 1) / block_units;
  int64_t block_patches = std::min<int64_t>(kMostPatches, 16 * at_once);
  const int64_t wanted = 2 * cuda::multiprocessors();
  while (block_patches > at_once && (count + block_patches - 1) / block_patches * unit_blocks < wanted) {
    block_patches = std::max(at_once, block_patches / 2);
  }
  return {static_cast<char*>(cells),
          static_cast<char*>(patches),
          stride(0),
          stride(1),
          stride(2),
          stride(3),
          stride(4),
          stride(5),
          stride(6),
          cuda::FastDiv(grid.frames),
          cuda::FastDiv(grid.patch_rows()),
          cuda::FastDiv(grid.patch_cols()),
          cuda::FastDiv(grid.side()),
          cuda::FastDiv(grid.p),
          static_cast<uint32_t>(grid.scale),
          static_cast<uint32_t>(grid.rows),
          static_cast<uint32_t>(grid.cols),
          static_cast<uint32_t>(count),
          static_cast<uint32_t>(units),
          grid.features() * element_size,
          cuda::FastDiv(block_units),
          cuda::FastDiv(unit_blocks),
          cuda::FastDiv(at_once),
          static_cast<uint32_t>(block_patches),
          grid.rows % grid.scale != 0 || grid.cols % grid.scale != 0,
          nullptr,
          0,
          0};
}

using Kernel = void (*)(Moves);

inline int launch(Kernel kernel, const Moves& moves, void* stream) {
  const int64_t blocks = (int64_t{moves.count} + moves.block_patches - 1) / moves.block_patches *
                         int64_t{moves.unit_blocks.divisor};
  if (blocks >= int64_t{1} << 31) return cuda::kInvalidConfiguration;
  return cuda::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, stream, moves);
}

template <bool kGather, int kElement>
Kernel kernel_for(int bytes) {
  switch (bytes) {
    case 16:
      return &move_patches<kGather, 16, kElement>;
    case 8:
      return &move_patches<kGather, 8, kElement>;
    case 4:
      return &move_patches<kGather, 4, kElement>;
    default:
      return &move_patches<kGather, kElement, kElement>;
  }
}

// Elements of 2 or 4 bytes; patches aligned to 16 bytes, every size at most kMostOnGpu. A cudaError_t.
template <bool kGather>
int move(void* cells, const std::array<int64_t, 7>& strides, void* patches, int64_t element_size,
         const PatchGrid& grid, void* stream) {
  if (grid.patches() == 0) return cuda::kSuccess;
  const int bytes = unit_bytes(cells, strides, element_size, grid);
  const Moves moves = plan(cells, strides, patches, element_size, grid, bytes);
  return launch(element_size == 2 ? kernel_for<kGather, 2>(bytes) : kernel_for<kGather, 4>(bytes), moves,
                stream);
}

}  // namespace ddit::kernels::patch_moves

// Patches gathered with a factor for each sample's channels, in float32, and rounded once to the dtype of the
// patches: a coarse call's noise matching and its cast, without a launch of their own.
#pragma once

#include "kernels/cuda/numbers.cuh"
#include "kernels/patch_embed/params.h"
#include "kernels/patch_moves.cuh"

namespace ddit::kernels::patch_moves {

// A unit lies in one channel.
template <int kBytes, class From, class To>
struct Scaled {
  static constexpr int kElements = kBytes / sizeof(From);
  using Read = typename Word<kBytes>::Type;
  using Element = typename Word<sizeof(From)>::Type;
  using Written = typename Word<kElements * sizeof(To)>::Type;

  const float* factors;
  uint32_t of_channel;

  __device__ __forceinline__ Scaled(const Moves& moves, const Unit& unit)
      : factors(moves.factors), of_channel(unit.channel * moves.channel_factors) {}

  __device__ __forceinline__ Written operator()(Read read, const Place& place) const {
    const float factor = __ldg(factors + (of_channel + place.factors));
    const From* from = reinterpret_cast<const From*>(&read);
    Written written;
    To* to = reinterpret_cast<To*>(&written);
    if constexpr (kElements == 1) {
      cuda::store(cuda::to_float(*from) * factor, to);
    } else {
#pragma unroll
      for (int i = 0; i < kElements; i += 2) {
        const float2 pair = cuda::load_pair(from + i);
        cuda::store_pair(pair.x * factor, pair.y * factor, to + i);
      }
    }
    return written;
  }
};

template <int kBytes, class From, class To>
__global__ void __launch_bounds__(kThreads, 3) scale_patches(const __grid_constant__ Moves moves) {
  move_block<true, Scaled<kBytes, From, To>>(moves);
}

template <class From, class To>
Kernel scaling_kernel_for(int bytes) {
  switch (bytes) {
    case 16:
      return &scale_patches<16, From, To>;
    case 8:
      return &scale_patches<8, From, To>;
    case 4:
      return &scale_patches<4, From, To>;
    default:
      return &scale_patches<sizeof(From), From, To>;
  }
}

inline Kernel scaling_kernel_for(DType from, DType to, int bytes) {
  switch (to) {
    case DType::kBFloat16:
      return from == to ? scaling_kernel_for<__nv_bfloat16, __nv_bfloat16>(bytes)
                        : scaling_kernel_for<float, __nv_bfloat16>(bytes);
    case DType::kFloat16:
      return from == to ? scaling_kernel_for<__half, __half>(bytes)
                        : scaling_kernel_for<float, __half>(bytes);
    default:
      return scaling_kernel_for<float, float>(bytes);
  }
}

// As move(); numbers of 2 or 4 bytes.
inline int scale(const patch_embed::Params& params, void* stream) {
  if (params.grid.patches() == 0) return cuda::kSuccess;
  void* cells = const_cast<void*>(params.cells);
  const int64_t from_size = size_of(params.from);
  const int bytes = unit_bytes(cells, params.strides, from_size, params.grid, /*by_channel=*/true);
  Moves moves = plan(cells, params.strides, params.patches, from_size, params.grid, bytes);
  moves.patch_bytes = params.grid.features() * size_of(params.to);
  moves.factors = params.factors.data;
  moves.sample_factors = static_cast<uint32_t>(params.factors.sample_stride);
  moves.channel_factors = static_cast<uint32_t>(params.factors.channel_stride);
  return launch(scaling_kernel_for(params.from, params.to, bytes), moves, stream);
}

}  // namespace ddit::kernels::patch_moves

// Chooses a tile and launches.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/launch.cuh"
#include "kernels/patch_linear/kernel.cuh"
#include "kernels/patch_linear/params.h"
#include "kernels/patch_linear/units.h"

namespace ddit::kernels::patch_linear {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class Config, int kBlocks>
int launch(Arguments arguments, void* stream) {
  const auto kernel = patch_linear_kernel<Config, kBlocks>;
  const int shared = Config::shared_bytes(ceil_div(arguments.K, kSlice<typename Config::T>));
  arguments.col_tiles = static_cast<int32_t>(ceil_div(arguments.N, Config::kCols));
  const int64_t blocks = ceil_div(arguments.M, Config::kRows) * arguments.col_tiles;
  if (blocks >= int64_t{1} << 31) return cuda::kInvalidConfiguration;
  const int status = cuda::allow_dynamic_shared(kernel, Config::shared_bytes(Config::kStages));
  if (status != cuda::kSuccess) return status;
  return cuda::launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Config::kThreads), shared, stream,
                      arguments);
}

// Clocks that a square tile takes for each column of K, on a multiprocessor's tensor cores or on the way from
// the L2 cache, which gives one multiprocessor up to 64 bytes a clock, all of them together about 24 each. Of
// sm_80; later ones differ by less than the two tiles do.
double clocks(int64_t M, int64_t N, int64_t side, int64_t multiprocessors) {
  const double blocks = static_cast<double>(ceil_div(M, side) * ceil_div(N, side));
  const double turns = std::ceil(blocks / static_cast<double>(multiprocessors));
  const double bytes = 2.0 * 2.0 * static_cast<double>(side);
  const double block = std::max(static_cast<double>(side * side) / 1024.0, bytes / 64.0);
  return std::max(turns * block, blocks * bytes / (24.0 * static_cast<double>(multiprocessors)));
}

// Many tiles: large ones, since they read their operands less often. Few tiles: small ones, so that every
// multiprocessor gets some. Both sum in the same order, so the choice does not show in the result.
template <class T, bool kLora>
int launch_tiles(const Arguments& arguments, void* stream) {
  if constexpr (sizeof(T) == 2) {
    const int64_t processors = cuda::multiprocessors();
    if (clocks(arguments.M, arguments.N, 128, processors) <
        clocks(arguments.M, arguments.N, 64, processors)) {
      return launch<Config<T, 128, 128, 4, 2, kLora ? 2 : 3, kLora>, kLora ? 1 : 2>(arguments, stream);
    }
  }
  return launch<Config<T, 64, 64, 2, 2, kLora ? 3 : 4, kLora>, kLora ? 2 : 4>(arguments, stream);
}

template <class T>
int launch_lora(const Arguments& arguments, void* stream) {
  return arguments.rank > 0 ? launch_tiles<T, true>(arguments, stream)
                            : launch_tiles<T, false>(arguments, stream);
}

}  // namespace

int patch_linear_cuda(const Params& params, void* stream) {
  const int element_size = params.dtype == DType::kFloat32 ? 4 : 2;
  const int64_t M = params.out.grid.patches(), N = params.out.grid.features();
  const int64_t K = params.in.grid.features();
  if (largest_size(params) > kLargestSize) return cuda::kInvalidConfiguration;
  if (M == 0 || N == 0) return cuda::kSuccess;

  Arguments arguments;
  arguments.in = device_patches(params.in, element_size);
  arguments.out = device_patches(params.out, element_size);
  arguments.weight = params.weight;
  arguments.bias = params.bias;
  arguments.lora_a = params.lora_a;
  arguments.lora_b = params.lora_b;
  arguments.M = static_cast<int32_t>(M);
  arguments.N = static_cast<int32_t>(N);
  arguments.K = static_cast<int32_t>(K);
  arguments.rank = K > 0 ? static_cast<int32_t>(params.rank) : 0;  // without features a LoRA adds nothing
  arguments.lora_scale = params.lora_scale;
  arguments.in_unit = unit_bytes(params.in, element_size);
  arguments.out_unit = unit_bytes(params.out, element_size);
  arguments.wide_weight =
      K * element_size % 16 == 0 && is_aligned(params.weight) && is_aligned(params.lora_a);
  arguments.wide_lora_b = params.rank * element_size % 16 == 0 && is_aligned(params.lora_b);

  switch (params.dtype) {
    case DType::kFloat32:
      return launch_lora<float>(arguments, stream);
    case DType::kBFloat16:
      return launch_lora<__nv_bfloat16>(arguments, stream);
    case DType::kFloat16:
      return launch_lora<__half>(arguments, stream);
  }
  return cuda::kInvalidConfiguration;
}

}  // namespace ddit::kernels::patch_linear

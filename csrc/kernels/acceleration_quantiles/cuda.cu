// acceleration_quantiles on a GPU. One launch: warps turn tiles of base cells into variances, and the last
// block of each sample to finish merges the scales that tiles don't give and selects the sample's quantiles.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/acceleration_quantiles/cuda.h"
#include "kernels/acceleration_quantiles/cuda_coarse.cuh"
#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/acceleration_quantiles/cuda_select.cuh"
#include "kernels/acceleration_quantiles/cuda_tile.cuh"
#include "kernels/cuda/atomics.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace ddit::kernels::acceleration_quantiles {
namespace {

// grid: task.blocks for each sample, samples one after another
template <class T, int kPixels, bool kPairs>
__global__ void __launch_bounds__(kThreads, 2) acceleration_quantiles_kernel(const Task task) {
  const int64_t sample = blockIdx.x / task.blocks;
  const unsigned block = blockIdx.x % task.blocks;
  for (int64_t tile = int64_t{block} * kWarps + threadIdx.x / 32; tile < task.tiles;
       tile += int64_t{task.blocks} * kWarps) {
    tile_variances<T, kPixels, kPairs>(task, sample, tile);
  }

  bool& last = cuda::block_shared<bool>();
  __syncthreads();
  if (threadIdx.x == 0) last = cuda::add_acquire_release(&task.arrived[sample], 1u) + 1 == task.blocks;
  __syncthreads();
  if (!last) return;
  if (task.means) merge_coarse_levels(task, sample);
  select_quantiles(task, sample);  // reads what was merged only after a barrier of its own
}

constexpr int64_t kMostBlocks = 1024;  // of a sample; beyond, a block takes several rounds of tiles
constexpr int64_t kAlignment = 16;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t aligned(int64_t bytes) { return ceil_div(bytes, kAlignment) * kAlignment; }

// The launch for the scales [first, first + kMostLevels) of the list, all but its pointers.
Task plan_launch(const Params& params, int64_t first) {
  const int64_t frames = params.sizes[1], rows = params.sizes[2], columns = params.sizes[3];
  Task task{};
  task.frames = static_cast<int>(frames);
  task.rows = static_cast<int>(rows);
  task.columns = static_cast<int>(columns);
  task.channels = static_cast<int>(params.sizes[4]);
  task.p = static_cast<int>(params.sizes[5]);
  task.tile_rows = static_cast<int>(ceil_div(rows, kTile));
  task.tile_columns = static_cast<int>(ceil_div(columns, kTile));
  task.tiles = frames * task.tile_rows * task.tile_columns;
  task.blocks = static_cast<unsigned>(std::min(kMostBlocks, ceil_div(task.tiles, kWarps)));
  task.quantile = params.quantile;
  task.output_stride = params.num_scales;
  task.output_count = static_cast<int>(std::min<int64_t>(kMostLevels, params.num_scales - first));
  for (int64_t& start : task.fine_first) start = -1;

  const auto add_variances = [&](int64_t scale) {
    const int64_t start = task.variances_per_sample;
    task.variances_per_sample += frames * ceil_div(rows, scale) * ceil_div(columns, scale);
    return start;
  };
  bool coarse = false;
  for (int k = 0; k < task.output_count; ++k) {
    // A patch larger than the frame is the frame.
    const int scale = static_cast<int>(std::min(params.scales[first + k], std::max(rows, columns)));
    int l = 0;
    while (l < task.level_count && task.levels[l].scale != scale) ++l;
    task.output_level[k] = l;
    if (l < task.level_count) continue;
    CudaLevel& level = task.levels[task.level_count++];
    level.scale = scale;
    level.rows = cuda::FastDiv(ceil_div(rows, scale));
    level.columns = cuda::FastDiv(ceil_div(columns, scale));
    level.patches = static_cast<uint32_t>(frames * ceil_div(rows, scale) * ceil_div(columns, scale));
    level.first = add_variances(scale);
    level.coarse = scale != 1 && scale != 2 && scale != kTile;
    coarse = coarse || level.coarse;
    if (!level.coarse) {
      task.fine_first[scale == kTile ? 2 : scale - 1] = level.first;
    }
  }
  // Coarse patches are merged from base cells, asked for or not.
  if (coarse && task.fine_first[0] < 0) task.fine_first[0] = add_variances(1);
  task.means = coarse ? reinterpret_cast<double*>(kAlignment) : nullptr;  // set for good by place()
  return task;
}

// The workspace: counters and, from launch to launch the same memory, means and variances.
struct Workspace {
  int64_t counters, means, variances;  // bytes

  explicit Workspace(const Params& params) : counters(0), means(0), variances(0) {
    const int64_t samples = params.sizes[0];
    int64_t cells = samples;
    for (int axis = 1; axis < 5; ++axis) cells *= params.sizes[axis];
    for (int64_t first = 0; first < params.num_scales; first += kMostLevels) {
      const Task task = plan_launch(params, first);
      counters += samples * static_cast<int64_t>(sizeof(unsigned));
      if (task.means) means = cells * static_cast<int64_t>(sizeof(double));
      variances =
          std::max(variances, samples * task.variances_per_sample * static_cast<int64_t>(sizeof(float)));
    }
    counters = aligned(counters);
    means = aligned(means);
  }
};

// Whether two neighbouring pixels can be read by one instruction, in every latent.
bool reads_pairs(const Params& params, int64_t element_bytes) {
  return std::all_of(params.latents.begin(), params.latents.end(), [&](const CellsView& latent) {
    bool even = reinterpret_cast<uintptr_t>(latent.data) % static_cast<uintptr_t>(2 * element_bytes) == 0;
    for (int axis = 0; axis < 6; ++axis)
      even = even && (params.sizes[axis] == 1 || latent.strides[axis] % 2 == 0);
    return even && latent.strides[6] == 1;
  });
}

template <class T>
int launch(const Params& params, const Task& task, void* stream) {
  auto* kernel = &acceleration_quantiles_kernel<T, 0, false>;
  if (task.p == 2) {
    kernel = reads_pairs(params, sizeof(T)) ? &acceleration_quantiles_kernel<T, 2, true>
                                            : &acceleration_quantiles_kernel<T, 2, false>;
  }
  const dim3 grid(static_cast<unsigned>(params.sizes[0]) * task.blocks);
  return cuda::launch(kernel, grid, dim3(kThreads), 0, stream, task);
}

}  // namespace

std::string cuda_size_error(const Params& params) {
  // Strides are 64-bit; what is counted in 32 bits is the cells of a sample, the pixels of a tile and the
  // blocks of a launch.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const auto& sizes = params.sizes;
  const auto too_large = [](const char* what, int64_t got) {
    return std::string("z0 must have fewer than ") + what + " on a CUDA device, got " + std::to_string(got);
  };
  for (int axis = 0; axis < kCellsDims; ++axis) {
    if (sizes[axis] > kMost) return too_large("2^31 elements along each dimension", sizes[axis]);
  }
  const int64_t rows = sizes[1] * sizes[2];
  if (rows > kMost) return too_large("2^31 rows of cells a sample", rows);
  if (rows * sizes[3] > kMost) return too_large("2^31 cells a sample", rows * sizes[3]);
  const int64_t pixels = sizes[5] * sizes[6];
  static_assert(kMost / (kTile * kTile) == (1 << 27) - 1, "the message says so");
  if (pixels > kMost / (kTile * kTile)) return too_large("2^27 pixels a cell", pixels);
  const int64_t blocks = plan_launch(params, 0).blocks * sizes[0];
  return blocks > kMost ? too_large("2^31 thread blocks", blocks) : "";
}

int64_t cuda_workspace_bytes(const Params& params) {
  const Workspace workspace(params);
  return workspace.counters + workspace.means + workspace.variances;
}

int acceleration_quantiles_cuda(const Params& params, void* memory, void* stream) {
  if (params.sizes[0] == 0) return cuda::kSuccess;
  const Workspace workspace(params);
  char* at = static_cast<char*>(memory);
  unsigned* counters = reinterpret_cast<unsigned*>(at);
  int status = cuda::zero_async(counters, static_cast<size_t>(workspace.counters), stream);
  for (int64_t first = 0; first < params.num_scales && status == cuda::kSuccess; first += kMostLevels) {
    Task task = plan_launch(params, first);
    for (int k = 0; k < kLatents; ++k) {
      task.latents[k] = params.latents[k].data;
      std::copy(params.latents[k].strides.begin(), params.latents[k].strides.end(), task.strides[k]);
    }
    if (task.means) task.means = reinterpret_cast<double*>(at + workspace.counters);
    task.variances = reinterpret_cast<float*>(at + workspace.counters + workspace.means);
    task.arrived = counters;
    counters += params.sizes[0];
    task.output = params.output + first;
    switch (params.dtype) {
      case DType::kBFloat16:
        status = launch<__nv_bfloat16>(params, task, stream);
        break;
      case DType::kFloat16:
        status = launch<__half>(params, task, stream);
        break;
      default:  // float64 has no kernel; the op has said so
        status = launch<float>(params, task, stream);
    }
  }
  return status;
}

}  // namespace ddit::kernels::acceleration_quantiles

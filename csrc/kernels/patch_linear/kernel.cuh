// The kernel: a block makes one tile of the output, in one pass over the inner dimension.
//
//   sums = bias;  low = 0
//   for each slice of K, some stages ahead in flight:   sums += in weight^T;   low += in lora_a^T
//   sums += round(lora_scale * low) lora_b^T            the LoRA's second product is one more slice
//   through shared memory to the output, in units as wide as its memory allows
//
// A LoRA of a rank beyond one slice goes on in further passes for its next ranks.
#pragma once

#include "kernels/cuda/shared_memory.cuh"
#include "kernels/patch_linear/product.cuh"

namespace ddit::kernels::patch_linear {

template <class T_, int kRows_, int kCols_, int kWarpRows_, int kWarpCols_, int kStages_, bool kLora_>
struct Config {
  using T = T_;
  static constexpr bool kLora = kLora_;
  static constexpr int kRows = kRows_, kCols = kCols_;                  // of the block's tile
  static constexpr int kWarpRows = kWarpRows_, kWarpCols = kWarpCols_;  // how many warps down and across
  static constexpr int kThreads = 32 * kWarpRows * kWarpCols;
  static constexpr int kStages = kStages_;
  static constexpr int kRank = kLora ? kSlice<T> : 0;  // of a pass

  // Shared memory: the places of the rows, lora_b, then the stages, each of in, weight and lora_a.
  static constexpr int kPlaceBytes = kRows * sizeof(PatchPlace);
  static constexpr int kInBytes = kRows * kSliceBytes, kWeightBytes = kCols * kSliceBytes;
  static constexpr int kLoraBBytes = kLora ? kWeightBytes : 0;
  static constexpr int kStageBytes = kInBytes + kWeightBytes + kRank * kSliceBytes;
  static constexpr int kOutBytes = kRows * kCols * static_cast<int>(sizeof(T));

  using Sums = WarpSums<kRows / kWarpRows / 16, kCols / kWarpCols / 8>;
  using LowSums = WarpSums<kRows / kWarpRows / 16, kLora ? kRank / kWarpCols / 8 : 2>;
  static_assert(kStages >= 2, "a slice is loaded while another one is multiplied");
  static_assert(kCols / kWarpCols % 16 == 0 && (kRank == 0 || kRank / kWarpCols % 16 == 0),
                "the right side is read 16 rows at a time");

  // Short inner dimensions do not need all stages; the memory they leave is room for another block.
  static int shared_bytes(int64_t slices) {
    const int stages = slices < 1 ? 1 : slices < kStages ? static_cast<int>(slices) : kStages;
    const int ring = stages * kStageBytes > kOutBytes ? stages * kStageBytes : kOutBytes;
    return kPlaceBytes + kLoraBBytes + ring;
  }
};

struct Arguments {
  Patches in, out;
  const void *weight, *bias, *lora_a, *lora_b;
  int32_t M, N, K, rank;
  int32_t col_tiles;
  float lora_scale;
  int32_t in_unit, out_unit;      // in bytes
  bool wide_weight, wide_lora_b;  // whether rows can be read 16 bytes at a time; weight stands for lora_a too
};

template <class Config>
class Block {
  using T = typename Config::T;
  static constexpr int kThreads = Config::kThreads;

 public:
  __device__ __forceinline__ Block(const Arguments& arguments, char* shared)
      : arg_(arguments),
        places_(reinterpret_cast<PatchPlace*>(shared)),
        lora_b_(shared + Config::kPlaceBytes),
        ring_(lora_b_ + Config::kLoraBBytes),
        first_row_(blockIdx.x / arguments.col_tiles * Config::kRows),
        first_col_(blockIdx.x % arguments.col_tiles * Config::kCols),
        warp_row_(threadIdx.x / 32 / Config::kWarpCols * Config::Sums::kRows),
        warp_(threadIdx.x / 32 % Config::kWarpCols) {}

  __device__ __forceinline__ void run() {
    find_places(arg_.in);
    __syncthreads();
    multiply(true, 0);
    if constexpr (Config::kLora) {
      add_low_rank(0);
      for (int rank = Config::kRank; rank < arg_.rank; rank += Config::kRank) {
        __syncthreads();
        multiply(false, rank);
        add_low_rank(rank);
      }
    }
    __syncthreads();
    store();
  }

 private:
  // Rows past the end stand for the last one: they are computed and not stored.
  __device__ __forceinline__ void find_places(const Patches& patches) {
    for (int r = threadIdx.x; r < Config::kRows; r += kThreads) {
      places_[r] = place_of_patch(patches, min(first_row_ + r, arg_.M - 1));
    }
  }

  __device__ __forceinline__ void start_with_bias() {
    const T* bias = static_cast<const T*>(arg_.bias);
    if (bias == nullptr) return;
    const int first = first_col_ + warp_ * Config::Sums::kCols;
    sums_.fill([&](int col) { return first + col < arg_.N ? to_float(bias[first + col]) : 0.0f; });
  }

  // One pass over K, of which every copy has arrived at its end; the weight takes part in the first one only.
  __device__ __forceinline__ void multiply(bool with_weight, int first_rank) {
    const int slices = (arg_.K + kSlice<T> - 1) / kSlice<T>;
    const int ranks = Config::kLora ? min(arg_.rank - first_rank, Config::kRank) : 0;
    if constexpr (Config::kLora) {
      load_matrix<T, kThreads>(lora_b_, Config::kCols, arg_.wide_lora_b, arg_.lora_b, first_col_, arg_.N,
                               first_rank, arg_.rank);
      low_ = {};
    }
    int load_slot = 0, ready_slot = 0;
#pragma unroll 1
    for (int slice = 0; slice < slices + Config::kStages - 1; ++slice) {
      const bool ready = slice >= Config::kStages - 1;
      if (ready) {
        cuda::wait_copies<Config::kStages - 2>();
        __syncthreads();  // all see the slice that is ready, and have left the one that is loaded over
      }
      if (slice < slices) {
        load(slot(load_slot), slice * kSlice<T>, with_weight, first_rank, ranks);
        load_slot = load_slot + 1 == Config::kStages ? 0 : load_slot + 1;
      }
      cuda::commit_copies();
      // Here the bias is read while the first slices are under way.
      if (with_weight && slice == Config::kStages - 2) start_with_bias();
      if (ready) {
        multiply_slice(slot(ready_slot), with_weight, ranks);
        ready_slot = ready_slot + 1 == Config::kStages ? 0 : ready_slot + 1;
      }
    }
  }

  __device__ __forceinline__ char* slot(int number) { return ring_ + number * Config::kStageBytes; }

  __device__ __forceinline__ void load(char* stage, int col, bool with_weight, int first_rank, int ranks) {
    load_patches<T, kThreads, Config::kRows>(stage, arg_.in_unit, arg_.in, places_, col, arg_.K);
    if (with_weight) {
      load_matrix<T, kThreads>(stage + Config::kInBytes, Config::kCols, arg_.wide_weight, arg_.weight,
                               first_col_, arg_.N, col, arg_.K);
    }
    if constexpr (Config::kLora) {
      // Ranks are multiplied 16 at a time: zeros up to there.
      load_matrix<T, kThreads>(stage + Config::kInBytes + Config::kWeightBytes, (ranks + 15) / 16 * 16,
                               arg_.wide_weight, arg_.lora_a, first_rank, arg_.rank, col, arg_.K);
    }
  }

  __device__ __forceinline__ void multiply_slice(char* stage, bool with_weight, int ranks) {
    constexpr int kLowCols = Config::LowSums::kCols;
    auto&& sums = begin_slice<T>(sums_);
    auto&& low = begin_slice<T>(low_);
#pragma unroll 2
    for (int step = 0; step < kSliceBytes / 32; ++step) {
      const Left left(stage, warp_row_, step);
      if (with_weight) {
        multiply_step<T>(sums, left, stage + Config::kInBytes, warp_ * Config::Sums::kCols,
                         Config::Sums::kCols, step);
      }
      if constexpr (Config::kLora) {
        multiply_step<T>(low, left, stage + Config::kInBytes + Config::kWeightBytes, warp_ * kLowCols,
                         ranks - warp_ * kLowCols, step);
      }
    }
    end_slice<T>(sums_, sums);
    end_slice<T>(low_, low);
  }

  // The low-rank sums, rounded to T, take the place of `in` in the first stage. Beyond the rank they are
  // zeros whatever `in` holds: an infinity times the zeros there would be NaN.
  __device__ __forceinline__ void add_low_rank(int first_rank) {
    const int ranks = min(arg_.rank - first_rank, Config::kRank);
    __syncthreads();
    low_.for_each_pair([&](int row, int col, float first, float second) {
      const int rank = warp_ * Config::LowSums::kCols + col;
      first = rank < ranks ? first * arg_.lora_scale : 0.0f;
      second = rank + 1 < ranks ? second * arg_.lora_scale : 0.0f;
      store_pair(tile_at(ring_, warp_row_ + row, rank * static_cast<int>(sizeof(T))), first, second, T{});
    });
    __syncthreads();
    const int bytes = ranks * static_cast<int>(sizeof(T));
    auto&& sums = begin_slice<T>(sums_);
#pragma unroll 1
    for (int step = 0; 32 * step < bytes; ++step) {
      multiply_step<T>(sums, Left(ring_, warp_row_, step), lora_b_, warp_ * Config::Sums::kCols,
                       Config::Sums::kCols, step);
    }
    end_slice<T>(sums_, sums);
  }

  __device__ __forceinline__ void store() {
    constexpr int kRowBytes = Config::kCols * static_cast<int>(sizeof(T));
    find_places(arg_.out);
    sums_.for_each_pair([&](int row, int col, float first, float second) {
      const int byte = (warp_ * Config::Sums::kCols + col) * static_cast<int>(sizeof(T));
      store_pair(tile_at<kRowBytes>(ring_, warp_row_ + row, byte), first, second, T{});
    });
    __syncthreads();
    store_patches<T, kThreads, Config::kCols>(ring_, arg_.out_unit, min(Config::kRows, arg_.M - first_row_),
                                              arg_.out, places_, first_col_, arg_.N);
  }

  using Left = LeftFragments<Config::Sums::kRows / 16>;

  const Arguments& arg_;
  PatchPlace* places_;
  char *lora_b_, *ring_;
  int first_row_, first_col_;  // of the block
  int warp_row_;               // the warp's first row in the block's tile
  int warp_;                   // which of the warps across
  typename Config::Sums sums_;
  typename Config::LowSums low_;
};

template <class Config, int kBlocks>
__global__ void __launch_bounds__(Config::kThreads, kBlocks)
    patch_linear_kernel(const __grid_constant__ Arguments arguments) {
  Block<Config>(arguments, cuda::dynamic_shared<char>()).run();
}

}  // namespace ddit::kernels::patch_linear

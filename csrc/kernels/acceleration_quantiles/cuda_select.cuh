// The quantile of each level of a sample, by one block, without a sort: the bits of a float that is no less
// than zero order as the float does, so the value of a rank is found digit by digit, counting how many values
// have each digit.
#pragma once

#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/acceleration_quantiles/cuda_tile.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace ddit::kernels::acceleration_quantiles {

constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
constexpr unsigned kInfinityBits = 0x7f800000u;  // all above, as unsigned numbers, are NaNs

struct LevelSelection {
  unsigned lowest, highest;  // of the values' bits
  int open_bits;             // not yet known bits of the wanted value
  unsigned known;            // the bits above them
  unsigned rank;             // of the wanted value among those with these bits
  unsigned equal;            // how many have them
  unsigned next;             // the smallest value above the wanted one
};

struct Selection {
  unsigned counts[kMostLevels][kDigits];
  LevelSelection levels[kMostLevels];
};

// Calls use(level, value bits) for all values of the sample, each by some thread of the block.
template <class Use>
__device__ __forceinline__ void for_each_value(const Task& task, int64_t sample, const Use& use) {
  for (int l = 0; l < task.level_count; ++l) {
    const float* values = task.variances + sample * task.variances_per_sample + task.levels[l].first;
    for (unsigned i = threadIdx.x; i < task.levels[l].patches; i += kThreads) {
      use(l, __float_as_uint(__ldcg(values + i)));
    }
  }
}

// The rank of the wanted value, and how far the quantile lies beyond it on the way to the next.
__device__ __forceinline__ double exact_rank(const Task& task, int level) {
  return task.quantile * static_cast<double>(task.levels[level].patches - 1);
}

// The bits that all values share need no digit; in the rest, the values spread over the counters.
// What it finds is there for all after the next barrier.
__device__ __forceinline__ void find_common_bits(const Task& task, int64_t sample, Selection& shared) {
  const int t = threadIdx.x;
  if (t < kMostLevels) shared.levels[t] = {0xffffffffu, 0u, 0, 0u, 0u, 0u, 0xffffffffu};
  __syncthreads();
  for (int l = 0; l < task.level_count; ++l) {
    const float* values = task.variances + sample * task.variances_per_sample + task.levels[l].first;
    unsigned lowest = 0xffffffffu, highest = 0u;
    for (unsigned i = t; i < task.levels[l].patches; i += kThreads) {
      const unsigned bits = __float_as_uint(__ldcg(values + i));
      lowest = min(lowest, bits);
      highest = max(highest, bits);
    }
    lowest = __reduce_min_sync(kAllLanes, lowest);
    highest = __reduce_max_sync(kAllLanes, highest);
    if (t % 32 == 0) {
      atomicMin(&shared.levels[l].lowest, lowest);
      atomicMax(&shared.levels[l].highest, highest);
    }
  }
  __syncthreads();
  if (t < task.level_count) {
    LevelSelection& level = shared.levels[t];
    // A NaN decides the result. Without one, the values are no less than zero: their sign bits are 0 and
    // shared.
    const bool found = level.lowest == level.highest || level.highest > kInfinityBits;
    level.open_bits = found ? 0 : 32 - __clz(static_cast<int>(level.lowest ^ level.highest));
    level.known = level.lowest >> level.open_bits;
    level.rank = static_cast<unsigned>(exact_rank(task, t));
    level.equal = task.levels[t].patches;
  }
}

// One warp: which digit the wanted value has, from how many values have each.
__device__ __forceinline__ void take_digit(LevelSelection& level, const unsigned* counts) {
  constexpr int kEach = kDigits / 32;
  const int lane = threadIdx.x % 32;
  unsigned mine = 0;
  for (int i = 0; i < kEach; ++i) mine += counts[lane * kEach + i];
  unsigned through = mine;  // how many values have a digit up to this lane's last
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned lower = __shfl_up_sync(kAllLanes, through, distance);
    if (lane >= distance) through += lower;
  }
  const unsigned rank = level.rank;
  const int bits = min(kDigitBits, level.open_bits);
  __syncwarp();  // all lanes have read the level before one changes it
  unsigned below = through - mine;
  if (rank < below || rank >= through) return;
  int digit = lane * kEach;
  while (rank >= below + counts[digit]) below += counts[digit++];
  level.rank = rank - below;
  level.equal = counts[digit];
  level.known = level.known << bits | static_cast<unsigned>(digit);
  level.open_bits -= bits;
}

__device__ __forceinline__ void find_values(const Task& task, int64_t sample, Selection& shared) {
  const int t = threadIdx.x;
  const int warp = t / 32;
  bool open = true;
  while (open) {
    for (int i = t; i < kMostLevels * kDigits; i += kThreads) shared.counts[i / kDigits][i % kDigits] = 0u;
    __syncthreads();
    for_each_value(task, sample, [&](int l, unsigned bits) {
      const LevelSelection& level = shared.levels[l];
      if (level.open_bits == 0 || bits >> level.open_bits != level.known) return;
      const int digit_bits = min(kDigitBits, level.open_bits);
      const unsigned digit = bits >> (level.open_bits - digit_bits) & ((1u << digit_bits) - 1u);
      atomicAdd(&shared.counts[l][digit], 1u);
    });
    __syncthreads();
    if (warp < task.level_count && shared.levels[warp].open_bits > 0) {
      take_digit(shared.levels[warp], shared.counts[warp]);
    }
    __syncthreads();
    open = false;
    for (int l = 0; l < task.level_count; ++l) open = open || shared.levels[l].open_bits > 0;
    // The next round's counters are cleared while others may still look at open_bits, which it changes only
    // after its own barriers.
  }
}

__device__ __forceinline__ float quantile_of(const LevelSelection& level, double rank) {
  if (level.highest > kInfinityBits) return __uint_as_float(0x7fffffffu);  // NaN
  const double fraction = rank - floor(rank);
  // The square root keeps the order, so only the two chosen values need it.
  const double low = sqrt(static_cast<double>(__uint_as_float(level.known)));
  if (fraction == 0.0 || level.rank + 1 < level.equal) return static_cast<float>(low);
  const double high = sqrt(static_cast<double>(__uint_as_float(level.next)));
  return static_cast<float>(low + fraction * (high - low));
}

// Writes the sample's row of the output. All threads of the block call it.
__device__ __forceinline__ void select_quantiles(const Task& task, int64_t sample) {
  Selection& shared = cuda::block_shared<Selection>();
  const int t = threadIdx.x;
  find_common_bits(task, sample, shared);
  find_values(task, sample, shared);
  for_each_value(task, sample, [&](int l, unsigned bits) {
    LevelSelection& level = shared.levels[l];
    if (level.rank + 1 == level.equal && bits > level.known) atomicMin(&level.next, bits);
  });
  __syncthreads();
  if (t < task.output_count) {
    const int l = task.output_level[t];
    task.output[sample * task.output_stride + t] = quantile_of(shared.levels[l], exact_rank(task, l));
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

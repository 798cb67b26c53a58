// The quantile of each level of a sample, by one block, without a sort: the bits of a float that is no less
// than zero order as the float does, so the value of a rank is found digit by digit, counting how many values
// have each digit. docs/design/cuda-quantiles.md says what takes how long.
#pragma once

#include "kernels/acceleration_quantiles/cuda_plan.h"
#include "kernels/acceleration_quantiles/cuda_tile.cuh"
#include "kernels/cuda/shared_memory.cuh"

namespace ddit::kernels::acceleration_quantiles {

constexpr int kDigitBits = 9;
constexpr int kDigits = 1 << kDigitBits;
constexpr int kRun = kDigits / 32;  // counters that a lane sums up
static_assert(kRun <= 32, "a lane a counter of one run");
constexpr int kUnderWay = 16;                    // loads that a thread does not wait for one by one
constexpr unsigned kInfinityBits = 0x7f800000u;  // all above, as unsigned numbers, are NaNs
constexpr unsigned kHighestBits = 0xffffffffu;

// What is known of the wanted value's distance from the lowest value, both as bits.
struct Search {
  int open_bits;   // not known yet
  unsigned known;  // the bits above them
  unsigned rank;   // of the wanted value among those with these bits
  unsigned equal;  // how many have them

  __device__ __forceinline__ bool done() const { return open_bits == 0 || equal == 1; }
};

struct LevelSelection {
  unsigned lowest, highest;  // of the values' bits
  Search search;
  unsigned value;  // the wanted one's bits
  unsigned above;  // those of the smallest value with other known bits than the wanted one's, and larger ones
};

struct Selection {
  unsigned counts[kMostLevels][kDigits];
  LevelSelection levels[kMostLevels];
};

// Calls use(value bits) for all values of the level, each by some thread of the block. Many loads are under
// way at once. They are plain ones, so that the next pass finds in L1 what fits there; that they see what
// other blocks wrote is add_acquire_release's doing.
template <class Use>
__device__ __forceinline__ void for_each_value(const Task& task, int64_t sample, int level, const Use& use) {
  const float* values = task.variances + sample * task.variances_per_sample + task.levels[level].first;
  const unsigned count = task.levels[level].patches;
  for (unsigned first = threadIdx.x; first < count; first += kUnderWay * kThreads) {
    const float* from = values + first;
    const unsigned left = count - first;
    float batch[kUnderWay];
#pragma unroll
    for (unsigned k = 0; k < kUnderWay; ++k) batch[k] = k * kThreads < left ? from[k * kThreads] : 0.0f;
#pragma unroll
    for (unsigned k = 0; k < kUnderWay; ++k) {
      if (k * kThreads < left) use(__float_as_uint(batch[k]));
    }
  }
}

// The rank of the wanted value, and how far the quantile lies beyond it on the way to the next.
__device__ __forceinline__ double exact_rank(const Task& task, int level) {
  return task.quantile * static_cast<double>(task.levels[level].patches - 1);
}

// Digits are taken of the distance from the lowest value, so that the first of them already tells values
// apart. What it finds is there for all after the next barrier.
__device__ __forceinline__ void find_range(const Task& task, int64_t sample, Selection& shared) {
  const int t = threadIdx.x;
  if (t < kMostLevels) shared.levels[t] = {kHighestBits, 0u, {}, kHighestBits, kHighestBits};
  __syncthreads();  // the levels are set, and the coarse ones merged
  for (int l = 0; l < task.level_count; ++l) {
    unsigned lowest = kHighestBits, highest = 0u;
    for_each_value(task, sample, l, [&](unsigned bits) {
      lowest = min(lowest, bits);
      highest = max(highest, bits);
    });
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
    // A NaN decides the result. Without one, the values are no less than zero: their sign bits are 0.
    const unsigned range = level.highest > kInfinityBits ? 0u : level.highest - level.lowest;
    level.search = {32 - __clz(static_cast<int>(range)), 0u, static_cast<unsigned>(exact_rank(task, t)),
                    task.levels[t].patches};
  }
}

struct Place {
  int index;        // of 32 counters
  unsigned before;  // counted by those before it
  unsigned count;   // by it
};

// Which of a warp's counters, one a lane, the value of this rank is in.
__device__ __forceinline__ Place place_of(unsigned count, unsigned rank) {
  unsigned through = count;  // counted up to this lane's
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned lower = __shfl_up_sync(kAllLanes, through, distance);
    if (static_cast<int>(threadIdx.x % 32) >= distance) through += lower;
  }
  const int index = __popc(__ballot_sync(kAllLanes, through <= rank));
  return {index, __shfl_sync(kAllLanes, through - count, index), __shfl_sync(kAllLanes, count, index)};
}

// One warp: the search with one more digit known, from how many values have each.
__device__ __forceinline__ Search take_digit(Search search, const unsigned* counts) {
  const int lane = threadIdx.x % 32;
  unsigned mine = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) mine += counts[lane * kRun + (lane + i) % kRun];  // in turns: other banks
  const Place run = place_of(mine, search.rank);
  search.rank -= run.before;
  const Place digit = place_of(lane < kRun ? counts[run.index * kRun + lane] : 0u, search.rank);
  search.rank -= digit.before;
  search.equal = digit.count;
  const int bits = min(kDigitBits, search.open_bits);
  search.known = search.known << bits | static_cast<unsigned>(run.index * kRun + digit.index);
  search.open_bits -= bits;
  return search;
}

// Until a value is the only one with the known bits, or has no others. What it finds is there for all.
__device__ __forceinline__ void find_known_bits(const Task& task, int64_t sample, Selection& shared) {
  const int t = threadIdx.x;
  const int warp = t / 32;
  bool open = true;
  while (open) {
    for (int i = t; i < task.level_count * kDigits; i += kThreads) {
      shared.counts[i / kDigits][i % kDigits] = 0u;
    }
    __syncthreads();
    for (int l = 0; l < task.level_count; ++l) {
      const Search search = shared.levels[l].search;
      const unsigned lowest = shared.levels[l].lowest;
      if (search.done()) continue;
      const int digit_bits = min(kDigitBits, search.open_bits), below = search.open_bits - digit_bits;
      const unsigned mask = (1u << digit_bits) - 1u;
      for_each_value(task, sample, l, [&](unsigned bits) {
        const unsigned distance = bits - lowest;
        if (distance >> search.open_bits == search.known) {
          atomicAdd(&shared.counts[l][distance >> below & mask], 1u);
        }
      });
    }
    Search search{};
    if (warp < task.level_count) search = shared.levels[warp].search;
    __syncthreads();
    if (warp < task.level_count && !search.done()) {
      search = take_digit(search, shared.counts[warp]);
      if (t % 32 == 0) shared.levels[warp].search = search;
    }
    __syncthreads();
    open = false;
    for (int l = 0; l < task.level_count; ++l) open = open || !shared.levels[l].search.done();
    // The next round's counters are cleared while others may still look at the searches, which it changes
    // only after its own barriers.
  }
}

// The values with the known bits, of which there is one, or they are equal; and the smallest above them.
__device__ __forceinline__ void find_values(const Task& task, int64_t sample, Selection& shared) {
  for (int l = 0; l < task.level_count; ++l) {
    LevelSelection& level = shared.levels[l];
    const unsigned lowest = level.lowest, known = level.search.known;
    const int open_bits = level.search.open_bits;
    unsigned value = kHighestBits, above = kHighestBits;
    for_each_value(task, sample, l, [&](unsigned bits) {
      const unsigned digits = (bits - lowest) >> open_bits;
      if (digits == known) value = bits;
      if (digits > known) above = min(above, bits);
    });
    value = __reduce_min_sync(kAllLanes, value);
    above = __reduce_min_sync(kAllLanes, above);
    if (threadIdx.x % 32 == 0) {
      atomicMin(&level.value, value);
      atomicMin(&level.above, above);
    }
  }
  __syncthreads();
}

__device__ __forceinline__ float quantile_of(const LevelSelection& level, double rank) {
  if (level.highest > kInfinityBits) return __uint_as_float(0x7fffffffu);  // NaN
  const double fraction = rank - floor(rank);
  // The square root keeps the order, so only the two chosen values need it.
  const double low = sqrt(static_cast<double>(__uint_as_float(level.value)));
  if (fraction == 0.0 || level.search.rank + 1 < level.search.equal) return static_cast<float>(low);
  const double high = sqrt(static_cast<double>(__uint_as_float(level.above)));
  return static_cast<float>(low + fraction * (high - low));
}

// Writes the sample's row of the output. All threads of the block call it.
__device__ __forceinline__ void select_quantiles(const Task& task, int64_t sample) {
  Selection& shared = cuda::block_shared<Selection>();
  const int t = threadIdx.x;
  find_range(task, sample, shared);
  find_known_bits(task, sample, shared);
  find_values(task, sample, shared);
  if (t < task.output_count) {
    const int l = task.output_level[t];
    task.output[sample * task.output_stride + t] = quantile_of(shared.levels[l], exact_rank(task, l));
  }
}

}  // namespace ddit::kernels::acceleration_quantiles

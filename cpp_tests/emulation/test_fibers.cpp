// The emulation's scheduler: what it computes in every order, and that it sees the mistakes it is there for.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/atomics.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/shared_memory.cuh"
#include "test_setting.h"

namespace {

namespace cuda = ddit::kernels::cuda;
using ddit_test::kOrders;
using ddit_test::Setting;

// The message of the error that launching `kernel` gives.
template <class... Arguments>
std::string error_of(void (*kernel)(Arguments...), unsigned threads, Arguments... arguments) {
  try {
    cuda::launch(kernel, dim3(1), dim3(threads), 0, nullptr, arguments...);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

__global__ void number_threads(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(block * 100 + thread);
}

TEST(Emulation, RunsEveryThreadOnceInEveryOrder) {
  for (const char* order : kOrders) {
    const Setting setting("DDIT_EMULATION_ORDER", order);
    std::vector<int> out(2 * 3 * 2 * 64, 0);
    cuda::launch(number_threads, dim3(2, 3, 2), dim3(8, 4, 2), 0, nullptr, out.data());
    for (int i = 0; i < static_cast<int>(out.size()); ++i) EXPECT_EQ(out[i], i / 64 * 100 + i % 64);
  }
}

// A block leaves a mark before it is done, and the last block counts the marks: without the barrier it may
// count too early, but only where blocks are under way together.
template <bool kWaitsForItsBlock>
__global__ void mark_and_count(unsigned* counter, int* marks, int* counted) {
  bool& last = cuda::block_shared<bool>();
  __syncwarp();
  if (threadIdx.x % 32 == 0) marks[blockIdx.x * blockDim.x / 32 + threadIdx.x / 32] = 1;
  if (kWaitsForItsBlock) __syncthreads();
  if (threadIdx.x == 0) last = cuda::add_acquire_release(counter, 1u) + 1 == gridDim.x;
  __syncthreads();
  if (!last || threadIdx.x > 0) return;
  for (unsigned i = 0; i < gridDim.x * blockDim.x / 32; ++i) *counted += marks[i];
}

template <bool kWaitsForItsBlock>
int fewest_marks_counted(const char* blocks) {
  const Setting resident("DDIT_EMULATION_BLOCKS", blocks);
  int fewest = 3 * 4;
  for (int seed = 0; seed < 20; ++seed) {
    const Setting order("DDIT_EMULATION_ORDER", std::to_string(seed).c_str());
    unsigned counter = 0;
    int marks[3 * 4] = {}, counted = 0;
    cuda::launch(mark_and_count<kWaitsForItsBlock>, dim3(3), dim3(128), 0, nullptr, &counter, &marks[0],
                 &counted);
    fewest = std::min(fewest, counted);
  }
  return fewest;
}

TEST(Emulation, BlocksOvertakeEachOther) {
  EXPECT_EQ(fewest_marks_counted<true>("3"), 12);
  EXPECT_LT(fewest_marks_counted<false>("3"), 12);
}

TEST(Emulation, NamesABadOrder) {
  std::vector<int> out(32);
  {
    const Setting setting("DDIT_EMULATION_ORDER", "sideways");
    EXPECT_NE(error_of(number_threads, 32, out.data()).find("got sideways"), std::string::npos);
  }
  for (const char* blocks : {"0", "5", "-1"}) {
    const Setting setting("DDIT_EMULATION_BLOCKS", blocks);
    EXPECT_NE(error_of(number_threads, 32, out.data()).find("from 1 to 4"), std::string::npos) << blocks;
  }
}

struct Sums {
  int of_warp[4];
};

__global__ void sum_block(const int* in, int* out) {
  Sums& shared = cuda::block_shared<Sums>();
  int sum = in[threadIdx.x];
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
  if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  out[threadIdx.x] = shared.of_warp[0] + shared.of_warp[1] + shared.of_warp[2] + shared.of_warp[3];
}

TEST(Emulation, ShufflesAndBarriers) {
  std::vector<int> in(128), out(128);
  std::iota(in.begin(), in.end(), 1);
  for (const char* order : kOrders) {
    const Setting setting("DDIT_EMULATION_ORDER", order);
    cuda::launch(sum_block, dim3(1), dim3(128), 0, nullptr, in.data(), out.data());
    EXPECT_EQ(out, std::vector<int>(128, 128 * 129 / 2));
  }
}

__global__ void collect(unsigned* out) {
  const unsigned lane = threadIdx.x, odd = 0xaaaaaaaau, mask = lane % 2 ? odd : ~odd;
  out[lane] = __ballot_sync(mask, lane < 8);  // two groups of one warp, apart
  out[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
  out[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 1, 8);
  out[96 + lane] = __reduce_max_sync(mask, lane) - __reduce_min_sync(mask, lane);
}

TEST(Emulation, WarpOperations) {
  for (const char* order : kOrders) {
    const Setting setting("DDIT_EMULATION_ORDER", order);
    std::vector<unsigned> out(128);
    cuda::launch(collect, dim3(1), dim3(32), 0, nullptr, out.data());
    for (unsigned l = 0; l < 32; ++l) {
      EXPECT_EQ(out[l], l % 2 ? 0xaau : 0x55u);
      EXPECT_EQ(out[32 + l], l < 3 ? l : l - 3);
      EXPECT_EQ(out[64 + l], l % 8 == 7 ? l : l + 1);
      EXPECT_EQ(out[96 + l], 30u);
    }
  }
}

__global__ void count_arrivals(unsigned* counter, int* last_blocks) {
  bool& last = cuda::block_shared<bool>();
  if (threadIdx.x == 0) last = cuda::add_acquire_release(counter, 1u) + 1 == gridDim.x;
  __syncthreads();
  if (last && threadIdx.x == 0) atomicAdd(last_blocks, 1);
}

TEST(Emulation, OneBlockIsTheLast) {
  for (const char* order : kOrders) {
    const Setting setting("DDIT_EMULATION_ORDER", order);
    unsigned counter = 0;
    int last_blocks = 0;
    cuda::launch(count_arrivals, dim3(7), dim3(64), 0, nullptr, &counter, &last_blocks);
    EXPECT_EQ(counter, 7u);
    EXPECT_EQ(last_blocks, 1);
  }
}

__global__ void read_unwritten_shared(unsigned* out) {
  out[0] = cuda::dynamic_shared<unsigned>()[0];
  out[1] = cuda::block_shared<unsigned>();
}

TEST(Emulation, UnwrittenSharedMemoryHoldsAPattern) {
  unsigned out[2] = {};
  cuda::launch(read_unwritten_shared, dim3(1), dim3(32), sizeof(unsigned), nullptr, &out[0]);
  EXPECT_EQ(out[0], 0xcdcdcdcdu);
  EXPECT_EQ(out[1], 0xcdcdcdcdu);
}

// ---- Mistakes
// ---------------------------------------------------------------------------------------------------

__global__ void leave_before_barrier() {
  if (threadIdx.x < 32) return;
  __syncthreads();
}

__global__ void meet_at_different_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void leave_before_shuffle(int* out) {
  if (threadIdx.x == 5) return;
  *out = __shfl_sync(0xffffffffu, 1, 0);
}

__global__ void shuffle_outside_of_mask(int* out) { *out = __shfl_sync(1u, 1, 0); }

__global__ void mix_operations() {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}

__global__ void wait_for_each_other(int* out) {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    *out = __shfl_sync(0xffffffffu, 1, 0);
  }
}

__global__ void never_leave(int* rounds) {
  while (true) {
    __syncthreads();
    if (threadIdx.x == 0) ++*rounds;
  }
}

TEST(Emulation, StopsAtMistakes) {
  int out = 0;
  const auto expect = [](const std::string& error, const char* part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect(error_of(leave_before_barrier, 64), "left the kernel without");
  expect(error_of(meet_at_different_barriers, 64), "different barriers");
  expect(error_of(leave_before_shuffle, 32, &out), "lane 5 of warp 0 has left the kernel");
  expect(error_of(shuffle_outside_of_mask, 32, &out),
         "a mask that leaves it out (block (0, 0, 0), thread (1, 0, 0))");
  expect(error_of(mix_operations, 32), "different warp operations");
  expect(error_of(wait_for_each_other, 32, &out), "deadlock");
  expect(error_of(wait_for_each_other, 33, &out), "whole warps");
  expect(error_of(never_leave, 32, &out), "endless loop around the barrier");
  // The next launch is none the wiser.
  unsigned counter = 0;
  cuda::launch(count_arrivals, dim3(2), dim3(64), 0, nullptr, &counter, &out);
  EXPECT_EQ(counter, 2u);
}

}  // namespace

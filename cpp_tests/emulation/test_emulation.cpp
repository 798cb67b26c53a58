// The emulation itself: what it computes, and that it sees the mistakes it is there for. Compiled as the
// kernels are.
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/atomics.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace {

namespace cuda = ddit::kernels::cuda;

// Sets an environment variable for the length of a test.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

const char* const kOrders[] = {"forward", "reverse", "1", "2", "3"};

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
    cuda::launch(mark_and_count<kWaitsForItsBlock>, dim3(3), dim3(128), 0, nullptr, &counter, marks,
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
  cuda::launch(read_unwritten_shared, dim3(1), dim3(32), sizeof(unsigned), nullptr, out);
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
  // The next launch is none the wiser.
  unsigned counter = 0;
  cuda::launch(count_arrivals, dim3(2), dim3(64), 0, nullptr, &counter, &out);
  EXPECT_EQ(counter, 2u);
}

// ---- Asynchronous copies
// ------------------------------------------------------------------------------------------

template <bool kWaits, bool kKeepsUntilRead>
__global__ void copy_twice(const int4* in, int* out) {
  int4* shared = cuda::dynamic_shared<int4>();
  const unsigned t = threadIdx.x, other = (t + 1) % blockDim.x;
  for (int round = 0; round < 2; ++round) {
    cuda::copy_async_16(&shared[t], &in[round * 64 + t], t == 0 ? 8 : 16);
    cuda::commit_copies();
    if (kWaits) cuda::wait_copies<0>();
    __syncthreads();
    out[round * 64 + t] = shared[other].x + shared[other].w;
    if (kKeepsUntilRead) __syncthreads();
  }
}

TEST(Emulation, AsynchronousCopies) {
  std::vector<int4> in(128);
  for (int i = 0; i < 128; ++i) in[static_cast<size_t>(i)] = {i, 0, 0, 1000};
  std::vector<int> expected(128);
  for (int i = 0; i < 128; ++i) {
    const int source = i / 64 * 64 + (i + 1) % 64;
    expected[static_cast<size_t>(i)] = source + (source % 64 ? 1000 : 0);
  }
  const auto run = [&](void (*kernel)(const int4*, int*), const char* when, const char* order) {
    const Setting copies("DDIT_EMULATION_COPIES", when), setting("DDIT_EMULATION_ORDER", order);
    std::vector<int> out(128);
    cuda::launch(kernel, dim3(1), dim3(64), 64 * sizeof(int4), nullptr, in.data(), out.data());
    return out;
  };
  for (const char* when : {"late", "eager"}) {
    for (const char* order : kOrders) EXPECT_EQ(run(copy_twice<true, true>, when, order), expected);
  }
  EXPECT_NE(run(copy_twice<false, true>, "late", "forward"), expected) << "a missing wait";
  EXPECT_NE(run(copy_twice<true, false>, "eager", "forward"), expected) << "memory overwritten too early";
}

// ---- Tensor cores
// ---------------------------------------------------------------------------------------------------

template <class T>
T from_float(float value);
template <>
__nv_bfloat16 from_float(float value) {
  return __float2bfloat16(value);
}
template <>
__half from_float(float value) {
  return __float2half(value);
}

// out [16, 8] = a [16, 16] b [16, 8], all row-major: b is transposed while it is loaded.
template <class T>
__global__ void multiply(const T* a, const T* b, float* out) {
  struct Matrices {
    alignas(16) T a[16][16], b[16][8];
  };
  Matrices& shared = cuda::block_shared<Matrices>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared.a[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) shared.b[i / 8][i % 8] = b[i];
  __syncwarp();
  unsigned left[4], right[2];
  cuda::load_matrices<4, false>(left, &shared.a[lane % 16][lane / 16 * 8]);
  cuda::load_matrices<2, true>(right, &shared.b[lane % 16][0]);
  float sum[4] = {};
  cuda::multiply_16x8x16<T>(sum, left, right);
  for (int i = 0; i < 4; ++i) out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sum[i];
}

template <class T>
void expect_product() {
  std::vector<T> a(256), b(128);
  std::vector<float> expected(128, 0.0f), out(128);
  const auto left = [](int row, int k) { return static_cast<float>((row * 7 + k * 3) % 11 - 5); };
  const auto right = [](int k, int column) { return static_cast<float>((k * 5 + column) % 13 - 6) / 4; };
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      a[static_cast<size_t>(row * 16 + k)] = from_float<T>(left(row, k));
      for (int column = 0; column < 8; ++column) {
        b[static_cast<size_t>(k * 8 + column)] = from_float<T>(right(k, column));
        expected[static_cast<size_t>(row * 8 + column)] += left(row, k) * right(k, column);
      }
    }
  }
  cuda::launch(multiply<T>, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), out.data());
  EXPECT_EQ(out, expected);
}

TEST(Emulation, TensorCoreProducts) {
  expect_product<__nv_bfloat16>();
  expect_product<__half>();
}

// ---- 16-bit numbers
// --------------------------------------------------------------------------------------------------

TEST(Emulation, SixteenBitNumbersRoundToTheNearest) {
  for (unsigned bits = 0; bits < 1u << 16; ++bits) {
    const __half half{static_cast<uint16_t>(bits)};
    const __nv_bfloat16 brain{static_cast<uint16_t>(bits)};
    const float value = __half2float(half), wide = __bfloat162float(brain);
    EXPECT_TRUE(value != value || __float2half(value).bits == half.bits) << bits;
    EXPECT_TRUE(wide != wide || __float2bfloat16(wide).bits == brain.bits) << bits;
  }
  // Half-way between two neighbours: the even one. 1 + 2^-11 and 1 + 3 * 2^-11; 1 + 2^-8 and 1 + 3 * 2^-8.
  EXPECT_EQ(__float2half(1.0f + 0x1p-11f).bits, 0x3c00u);
  EXPECT_EQ(__float2half(1.0f + 0x3p-11f).bits, 0x3c02u);
  EXPECT_EQ(__float2half(0x1p-25f).bits, 0u);
  EXPECT_EQ(__float2half(0x3p-25f).bits, 2u);
  EXPECT_EQ(__float2half(65519.0f).bits, 0x7bffu);
  EXPECT_EQ(__float2half(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(__float2bfloat16(1.0f + 0x1p-8f).bits, 0x3f80u);
  EXPECT_EQ(__float2bfloat16(1.0f + 0x3p-8f).bits, 0x3f82u);
}

}  // namespace

// What stands in for the device headers: asynchronous copies, tensor cores, 16-bit numbers.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/shared_memory.cuh"
#include "kernels/cuda/tensor_core.cuh"
#include "test_setting.h"

namespace {

namespace cuda = ddit::kernels::cuda;
using ddit_test::kOrders;
using ddit_test::Setting;

// ---- Asynchronous copies
// ------------------------------------------------------------------------------------------

template <bool kWaits, bool kKeepsUntilRead>
__global__ void copy_twice(const int4* in, int* out) {
  int4* shared = cuda::dynamic_shared<int4>();
  const unsigned t = threadIdx.x, other = (t + 1) % blockDim.x;
  for (int round = 0; round < 2; ++round) {
    cuda::copy_async<16>(&shared[t], &in[round * 64 + t], t == 0 ? 8 : 16);
    cuda::commit_copies();
    if (kWaits) cuda::wait_copies<0>();
    __syncthreads();
    out[round * 64 + t] = shared[other].x + shared[other].w;
    if (kKeepsUntilRead) __syncthreads();
  }
}

TEST(DeviceHeaders, AsynchronousCopies) {
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

TEST(DeviceHeaders, TensorCoreProducts) {
  expect_product<__nv_bfloat16>();
  expect_product<__half>();
}

// out [16, 8] = a [16, 8] b^T, b [8, 8], in tf32.
__global__ void multiply_tf32(const float* a, const float* b, float* out) {
  struct Matrices {
    alignas(16) float a[16][8], b[8][8];
  };
  Matrices& shared = cuda::block_shared<Matrices>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 128; i += 32) shared.a[i / 8][i % 8] = a[i];
  for (int i = lane; i < 64; i += 32) shared.b[i / 8][i % 8] = b[i];
  __syncwarp();
  unsigned left[4], right[2];
  cuda::load_matrices<4, false>(left, &shared.a[lane % 16][lane / 16 * 4]);
  cuda::load_matrices<2, false>(right, &shared.b[lane % 8][lane / 8 % 2 * 4]);
  float sum[4] = {};
  cuda::multiply_16x8x8_tf32(sum, left, right);
  for (int i = 0; i < 4; ++i) out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sum[i];
}

TEST(DeviceHeaders, TensorCoreProductsOfTf32) {
  std::vector<float> a(128), b(64), expected(128, 0.0f), out(128);
  for (size_t i = 0; i < 128; ++i) a[i] = static_cast<float>(i * 7 % 23) / 4 - 2;
  for (size_t i = 0; i < 64; ++i) b[i] = static_cast<float>(i * 5 % 19) - 8;
  for (size_t i = 0; i < 128; ++i) {
    for (size_t k = 0; k < 8; ++k) expected[i] += a[i / 8 * 8 + k] * b[i % 8 * 8 + k];
  }
  cuda::launch(multiply_tf32, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), out.data());
  EXPECT_EQ(out, expected);
}

TEST(DeviceHeaders, SumsOfTensorCoresAreCutOff) {
  using ddit_emulation::cut_to_float;
  EXPECT_EQ(cut_to_float(1.0 + 0x1.8p-24), 1.0f);
  EXPECT_EQ(cut_to_float(-1.0 - 0x1.8p-24), -1.0f);
  EXPECT_EQ(cut_to_float(1.0 + 0x1p-23), 1.0f + 0x1p-23f);
  EXPECT_EQ(cut_to_float(-INFINITY), -INFINITY);
  EXPECT_TRUE(std::isnan(cut_to_float(NAN)));
}

TEST(DeviceHeaders, Tf32RoundsToTheNearest) {
  const auto rounded = [](float value) {
    return __uint_as_float(cuda::round_to_tf32(value) & cuda::kTf32Bits);
  };
  EXPECT_EQ(rounded(1.0f + 0x1p-10f), 1.0f + 0x1p-10f);
  EXPECT_EQ(rounded(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);  // half-way: away from zero
  EXPECT_EQ(rounded(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  EXPECT_EQ(rounded(1.0f + 0x1p-12f), 1.0f);
  EXPECT_EQ(rounded(INFINITY), INFINITY);
  EXPECT_EQ(rounded(0x1p127f + (0x1p127f - 0x1p116f)), INFINITY);
  EXPECT_TRUE(std::isnan(rounded(NAN)));
}

// ---- 16-bit numbers
// --------------------------------------------------------------------------------------------------

TEST(DeviceHeaders, SixteenBitNumbersRoundToTheNearest) {
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

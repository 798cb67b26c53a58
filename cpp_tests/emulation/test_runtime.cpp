// csrc/kernels/cuda/launch.cuh on a GPU that fails: the status goes to the caller and nothing stays behind.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cuda/launch.cuh"
#include "test_setting.h"

namespace {

namespace cuda = ddit::kernels::cuda;
using ddit_test::Setting;

__global__ void write_one(int* out) { *out = 1; }

TEST(Runtime, LaunchesAndZeroes) {
  int out = 0;
  EXPECT_EQ(cuda::launch(write_one, dim3(1), dim3(32), 0, nullptr, &out), cuda::kSuccess);
  EXPECT_EQ(out, 1);
  EXPECT_EQ(cuda::zero_async(&out, sizeof(out), nullptr), cuda::kSuccess);
  EXPECT_EQ(out, 0);
  EXPECT_EQ(cuda::multiprocessors(), 2);
}

TEST(Runtime, AFailureIsReturnedAndNotLeftBehind) {
  for (const int error :
       {cudaErrorInsufficientDriver, cudaErrorNoKernelImageForDevice, cudaErrorLaunchFailure}) {
    const Setting setting("DDIT_EMULATION_ERROR", std::to_string(error).c_str());
    for (const size_t dynamic_shared : {size_t{0}, size_t{100} * 1024}) {
      int out = 0;
      EXPECT_EQ(cuda::launch(write_one, dim3(1), dim3(32), dynamic_shared, nullptr, &out), error);
      EXPECT_EQ(out, 0) << "the kernel ran";
      EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    }
    EXPECT_EQ(cuda::allow_dynamic_shared(write_one, 100 * 1024), error);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }
}

TEST(Runtime, WhatFailsIsWhatTheErrorBefalls) {
  int out = 1;
  {
    const Setting setting("DDIT_EMULATION_ERROR", "35");  // no driver: nothing works
    EXPECT_EQ(cuda::zero_async(&out, sizeof(out), nullptr), cudaErrorInsufficientDriver);
    EXPECT_EQ(cuda::multiprocessors(), 1);
  }
  {
    const Setting setting("DDIT_EMULATION_ERROR", "209");  // no kernel: all but kernels works
    EXPECT_EQ(cuda::zero_async(&out, sizeof(out), nullptr), cuda::kSuccess);
    EXPECT_EQ(cuda::multiprocessors(), 2);
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

__global__ void write_two(int* out) { *out = 2; }

TEST(Runtime, DynamicSharedMemoryUpToTheKernelsLimit) {
  const auto launch = [](size_t kilobytes) {
    int out = 0;
    const int status = cuda::launch(write_two, dim3(1), dim3(32), kilobytes * 1024, nullptr, &out);
    EXPECT_EQ(out, status == cuda::kSuccess ? 2 : 0);
    return status;
  };
  EXPECT_EQ(launch(48), cuda::kSuccess);
  EXPECT_EQ(launch(49), cudaErrorInvalidValue) << "without asking";
  EXPECT_EQ(cuda::allow_dynamic_shared(write_two, 100 * 1024), cuda::kSuccess);
  for (const size_t kilobytes : {100, 10, 100}) EXPECT_EQ(launch(kilobytes), cuda::kSuccess);
  EXPECT_EQ(launch(101), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::allow_dynamic_shared(write_two, 228 * 1024), cudaErrorInvalidValue) << "no block has that";
  EXPECT_EQ(launch(100), cuda::kSuccess) << "the limit stays";
}

}  // namespace

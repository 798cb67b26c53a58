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

TEST(Runtime, MoreSharedMemoryThanABlockHas) {
  int out = 0;
  EXPECT_EQ(cuda::launch(write_one, dim3(1), dim3(32), 228 * 1024, nullptr, &out), cudaErrorInvalidValue);
  EXPECT_EQ(out, 0);
}

}  // namespace

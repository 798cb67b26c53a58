// The part of the CUDA runtime that csrc calls, for g++: kernels run on the fibers of the emulation, on a GPU
// that fails when the environment asks for it.
//
// From the environment at every call:
//   DDIT_EMULATION_ERROR       the number of a cudaError_t: calls fail with it as on a GPU (runtime.cpp says
//   which) DDIT_EMULATION_CAPABILITY  of the GPU, 10.0 unless told DDIT_EMULATION_DRIVER      the CUDA
//   version of its driver: 12040 is 12.4, 0 is no driver; 13000 unless told
#pragma once

#include <cstddef>

#define CUDART_VERSION 13000

// Values of CUDA's driver_types.h.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorECCUncorrectable = 214,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorLaunchFailure = 719,
};

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
using cudaStream_t = void*;

struct cudaDeviceProp {
  char name[256];
  int major, minor;
};

extern "C" {
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetLastError();
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
}

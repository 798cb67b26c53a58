// The emulated GPU as the CUDA runtime shows it, and what it fails with on demand.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

namespace {

struct Error {
  cudaError_t value;
  const char *name, *text;
};

// The texts that csrc's messages are tested with.
constexpr Error kErrors[] = {
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
};

cudaError_t last_error = cudaSuccess;
std::map<const void*, size_t> most_shared;  // of the kernels that were given a limit

cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

cudaError_t wanted_error() {
  const char* text = std::getenv("DDIT_EMULATION_ERROR");
  return text && *text ? static_cast<cudaError_t>(std::atoi(text)) : cudaSuccess;
}

bool has_no_driver(cudaError_t error) {
  return error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice;
}

// After a kernel that failed while it ran, every call on the device fails.
bool is_lasting(cudaError_t error) {
  return error == cudaErrorLaunchFailure || error == cudaErrorIllegalAddress;
}

cudaError_t query_status() { return returned(has_no_driver(wanted_error()) ? wanted_error() : cudaSuccess); }

cudaError_t memory_status() {
  const cudaError_t error = wanted_error();
  return returned(has_no_driver(error) || is_lasting(error) ? error : cudaSuccess);
}

template <class Choose>
const char* of(cudaError_t error, const Choose& choose) {
  for (const Error& known : kErrors) {
    if (known.value == error) return choose(known);
  }
  return "unrecognized error code";
}

}  // namespace

namespace ddit_emulation {

cudaError_t kernel_status(bool valid) {
  const cudaError_t error = wanted_error();
  return returned(error != cudaSuccess ? error : valid ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t set_most_dynamic_shared(const void* kernel, int bytes) {
  const cudaError_t status = kernel_status(bytes <= kMostDynamicShared);
  if (status == cudaSuccess) most_shared[kernel] = static_cast<size_t>(bytes);
  return status;
}

size_t most_dynamic_shared(const void* kernel) {
  const auto found = most_shared.find(kernel);
  return found == most_shared.end() ? size_t{48} * 1024 : found->second;
}

bool recorded(const void* kernel, const cudaLaunchConfig_t& config) {
  const char* file = std::getenv("DDIT_EMULATION_LAUNCHES");
  if (!file || !*file) return false;
  Dl_info library{};
  dladdr(kernel, &library);
  const auto count = [](dim3 size) { return uint64_t{size.x} * size.y * size.z; };
  std::ofstream(file, std::ios::app) << reinterpret_cast<uintptr_t>(kernel) -
                                            reinterpret_cast<uintptr_t>(library.dli_fbase)
                                     << ' ' << count(config.gridDim) << ' ' << count(config.blockDim) << ' '
                                     << config.dynamicSmemBytes << '\n';
  return true;
}

}  // namespace ddit_emulation

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return query_status();
}

// Few multiprocessors, so that tiles made for many blocks are chosen at sizes that can be emulated.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*multiprocessors*/, int /*device*/) {
  const cudaError_t status = query_status();
  const char* text = std::getenv("DDIT_EMULATION_MULTIPROCESSORS");
  if (status == cudaSuccess) *value = text && *text ? std::atoi(text) : 2;
  return status;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  const cudaError_t status = query_status();
  if (status != cudaSuccess) return status;
  const char* text = std::getenv("DDIT_EMULATION_CAPABILITY");
  char* end = nullptr;
  properties->major = static_cast<int>(std::strtol(text && *text ? text : "10.0", &end, 10));
  properties->minor = *end == '.' ? std::atoi(end + 1) : 0;
  std::strcpy(properties->name, "Emulated GPU");
  return cudaSuccess;
}

// As CUDA: 0 where there is no driver, and no error then.
cudaError_t cudaDriverGetVersion(int* version) {
  const char* text = std::getenv("DDIT_EMULATION_DRIVER");
  *version = text && *text ? std::atoi(text) : CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t /*stream*/) {
  const cudaError_t status = memory_status();
  if (status == cudaSuccess) std::memset(memory, value, bytes);
  return status;
}

const char* cudaGetErrorName(cudaError_t error) {
  return of(error, [](const Error& known) { return known.name; });
}

const char* cudaGetErrorString(cudaError_t error) {
  return of(error, [](const Error& known) { return known.text; });
}

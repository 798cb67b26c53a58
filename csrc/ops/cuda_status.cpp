// What a kernel's status means to whoever called the op.
#include <cuda_runtime_api.h>

#include <sstream>
#include <string>

#include "ops/checks.h"
#include "ops/cuda_call.h"

namespace ddit::ops {
namespace {

constexpr const char* kArchitectures = DDIT_EXT_CUDA_ARCHITECTURES;

// 13010 is 13.1.
std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The GPU has none of the architectures that were compiled.
std::string not_compiled() {
  std::ostringstream text;
  int device = 0;
  cudaDeviceProp properties{};
  if (cudaGetDevice(&device) == cudaSuccess && cudaGetDeviceProperties(&properties, device) == cudaSuccess) {
    text << properties.name << " has compute capability " << properties.major << '.' << properties.minor;
  } else {
    text << "the GPU is of another architecture";
  }
  text << ", but this build of ddit_ext holds kernels for " << kArchitectures << " only; ";
  if (properties.major >= 8) {
    text << "set TORCH_CUDA_ARCH_LIST=" << properties.major << '.' << properties.minor << " and build again";
  } else {
    text << "they need 8.0 or later";
  }
  return text.str();
}

// The runtime that is linked into this library asks more of the driver than torch's may.
std::string driver_lacks() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const std::string built = cuda_version(CUDART_VERSION);
  const std::string holds = "this build of ddit_ext (CUDA " + built + ", kernels for " + kArchitectures + ")";
  if (driver == 0) return holds + " found no NVIDIA driver";
  return holds + " needs a newer NVIDIA driver than the one found, which supports CUDA " +
         cuda_version(driver) + ": update the driver, or build ddit_ext with a CUDA toolkit of at most " +
         cuda_version(driver);
}

// A kernel that was running, of this op or of anything before it, failed; the device is lost to this process.
bool is_of_a_running_kernel(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

std::string explained(cudaError_t error) {
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return not_compiled();
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorUnsupportedPtxVersion:
      return driver_lacks();
    default:
      break;
  }
  const std::string text = std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
  if (!is_of_a_running_kernel(error)) return text;
  return text +
         "; a kernel failed while it ran, this op's or one launched before it: with CUDA_LAUNCH_BLOCKING=1 "
         "the error comes from the op that caused it";
}

}  // namespace

void CudaCall::check(int status) const {
  if (status == cudaSuccess) return;
  const std::string text = explained(static_cast<cudaError_t>(status));
  cudaGetLastError();  // of the questions above: it would be taken for the error of whatever comes next
  ops::check(false, op_, ": ", text);
}

}  // namespace ddit::ops

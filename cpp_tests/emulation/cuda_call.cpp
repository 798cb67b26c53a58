// The emulated kernels run on CPU tensors: no device to choose, no stream to wait for.
#include "ops/cuda_call.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cstdlib>

namespace ddit::ops {

struct CudaCall::Device {};

CudaCall::CudaCall(const char* op, const torch::stable::Tensor& /*like*/) : op_(op) {}

CudaCall::~CudaCall() = default;

void* CudaCall::stream() const { return nullptr; }

// Where launches are written down and not run (cuda_runtime.h), neither are products.
void CudaCall::addmm_out(const torch::stable::Tensor& out, const torch::stable::Tensor& self,
                         const torch::stable::Tensor& a, const torch::stable::Tensor& b, double beta,
                         double alpha) const {
  const char* launches = std::getenv("DDIT_EMULATION_LAUNCHES");
  if (launches && *launches) return;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), self.get(), a.get(), b.get(), beta, alpha));
}

}  // namespace ddit::ops

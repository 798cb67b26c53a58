#include "ops/cuda_call.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "ops/checks.h"

// Only CUDA builds of torch have it. Weak, so that this library loads into the others, too; there it is null.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device,
                                                                                   void** stream);
// The dispatcher's own addmm takes Scalars, which the stable ABI can't pass.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out,
                                                                          AtenTensorHandle self,
                                                                          AtenTensorHandle a,
                                                                          AtenTensorHandle b, double beta,
                                                                          double alpha);

namespace ddit::ops {

struct CudaCall::Device {
  int32_t index;
  torch::stable::accelerator::DeviceGuard guard;

  explicit Device(int32_t index) : index(index), guard(index) {}
};

CudaCall::CudaCall(const char* op, const torch::stable::Tensor& like)
    : op_(op), device_(std::make_unique<Device>(like.get_device_index())) {}

CudaCall::~CudaCall() = default;

void* CudaCall::stream() const {
  ops::check(&aoti_torch_get_current_cuda_stream != nullptr, op_, ": this torch was built without CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_->index, &stream));
  return stream;
}

void CudaCall::addmm_out(const torch::stable::Tensor& out, const torch::stable::Tensor& self,
                         const torch::stable::Tensor& a, const torch::stable::Tensor& b, double beta,
                         double alpha) const {
  ops::check(&aoti_torch_cuda_addmm_out != nullptr, op_, ": this torch was built without CUDA");
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_addmm_out(out.get(), self.get(), a.get(), b.get(), beta, alpha));
}

}  // namespace ddit::ops

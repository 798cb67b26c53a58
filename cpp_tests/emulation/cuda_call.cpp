// The emulated kernels run on CPU tensors: no device to choose, no stream to wait for.
#include "ops/cuda_call.h"

namespace ddit::ops {

struct CudaCall::Device {};

CudaCall::CudaCall(const char* op, const torch::stable::Tensor& /*like*/) : op_(op) {}

CudaCall::~CudaCall() = default;

void* CudaCall::stream() const { return nullptr; }

}  // namespace ddit::ops

// What every op needs around its CUDA kernel: the device, the stream, and an error that names the op.
// cuda_call.cpp serves a GPU, the emulation (cpp_tests/emulation) has its own; the errors of cuda_status.cpp
// serve both.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <memory>

namespace ddit::ops {

// For the length of one op call: the device of `like` is the current one.
class CudaCall {
 public:
  CudaCall(const char* op, const torch::stable::Tensor& like);
  ~CudaCall();
  CudaCall(const CudaCall&) = delete;
  CudaCall& operator=(const CudaCall&) = delete;

  // torch's current stream on that device, a cudaStream_t.
  void* stream() const;

  // out = beta * self + alpha * a b by torch's library, on that stream. `self` may be a row; beta = 0 ignores
  // it, also NaN in it.
  void addmm_out(const torch::stable::Tensor& out, const torch::stable::Tensor& self,
                 const torch::stable::Tensor& a, const torch::stable::Tensor& b, double beta,
                 double alpha) const;

  // Throws, naming the op, where a kernel's status is not success: what this build holds and the GPU or its
  // driver lacks, or that a kernel before this one has failed.
  void check(int status) const;

 private:
  struct Device;
  const char* op_;
  std::unique_ptr<Device> device_;
};

}  // namespace ddit::ops

// Tensors of a .safetensors file as at::Tensor. Has torch types.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <map>
#include <string>

#include "ddit_ext/safetensors.h"

namespace ddit {

inline at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kUInt8:
      return at::kByte;
    case DType::kInt8:
      return at::kChar;
    case DType::kFloat8E4M3:
      return at::kFloat8_e4m3fn;
    case DType::kFloat8E5M2:
      return at::kFloat8_e5m2;
    case DType::kInt16:
      return at::kShort;
    case DType::kUInt16:
      return at::kUInt16;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kInt32:
      return at::kInt;
    case DType::kUInt32:
      return at::kUInt32;
    case DType::kInt64:
      return at::kLong;
    case DType::kUInt64:
      return at::kUInt64;
    case DType::kFloat64:
      return at::kDouble;
    case DType::kFloat32:
      break;
  }
  return at::kFloat;
}

// On the CPU, in the file's own type. FileError where there is no tensor of that name.
inline at::Tensor read_tensor(const Safetensors& file, const std::string& name) {
  const TensorInfo& info = file.at(name);
  at::Tensor tensor = at::empty(info.shape, at::TensorOptions().dtype(scalar_type(info.dtype)));
  file.read(name, tensor.mutable_data_ptr());
  return tensor;
}

inline std::map<std::string, at::Tensor> read_tensors(const Safetensors& file) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& entry : file.tensors()) tensors.emplace(entry.first, read_tensor(file, entry.first));
  return tensors;
}

}  // namespace ddit

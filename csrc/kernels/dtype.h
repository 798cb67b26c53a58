// The types of numbers that kernels read and write.
#pragma once

#include <cstdint>

namespace ddit::kernels {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

}  // namespace ddit::kernels

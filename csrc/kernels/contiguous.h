// Strides of cells that lie in memory one after the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ddit::kernels {

// In elements, for axes of `sizes`, the last one fastest; an empty axis counts as one, as torch has it.
template <size_t axes>
std::array<int64_t, axes> contiguous_strides(const std::array<int64_t, axes>& sizes) {
  std::array<int64_t, axes> strides{};
  int64_t stride = 1;
  for (size_t i = axes; i-- > 0;) {
    strides[i] = stride;
    stride *= sizes[i] > 0 ? sizes[i] : 1;
  }
  return strides;
}

}  // namespace ddit::kernels

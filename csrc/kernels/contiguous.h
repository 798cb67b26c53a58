// Cells that lie in memory one after the other: their strides, and how many they are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

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

// The product of sizes, none of them negative; nothing where 64 bits can't count the bytes of so many floats.
template <class Sizes>
std::optional<int64_t> count_floats(const Sizes& sizes) {
  int64_t all = 1;
  for (const int64_t size : sizes) {
    if (size > 0 && all > std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(float)) / size)
      return std::nullopt;
    all *= size;
  }
  return all;
}

}  // namespace ddit::kernels

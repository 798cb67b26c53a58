// Division by a number known before the launch: one multiplication and a shift.
#pragma once

#include <cstdint>

namespace ddit::kernels::cuda {

struct FastDiv {
  uint32_t divisor = 1;
  uint32_t multiplier = uint32_t{1} << 31;
  uint32_t shift = 31;

  FastDiv() = default;

  // 1 <= value < 2^31. multiplier = ceil(2^shift / value) is exact for every numerator below 2^31, since
  // its error, less than value <= 2^(shift - 31), times the numerator stays below 2^shift.
  explicit FastDiv(int64_t value) : divisor(static_cast<uint32_t>(value)) {
    while ((uint64_t{1} << (shift - 31)) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor);
  }

  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((static_cast<uint64_t>(n) * multiplier) >> shift);
  }

  // Returns the remainder and leaves the quotient in n.
  __device__ __forceinline__ uint32_t split(uint32_t& n) const {
    const uint32_t q = quotient(n);
    const uint32_t remainder = n - q * divisor;
    n = q;
    return remainder;
  }
};

}  // namespace ddit::kernels::cuda

// The twin of csrc/kernels/cuda/tensor_core.cuh: every lane computes its own elements from what all lanes
// hold.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device_builtins.h"

namespace ddit_emulation {

constexpr unsigned kAllLanes = 0xffffffffu;

// The lanes show each other their objects, which must stay alive until all lanes have passed
// done_with_lanes().
template <class T>
const T& of_lane(const uint64_t* lanes, int lane) {
  return *reinterpret_cast<const T*>(lanes[lane]);
}
template <class T>
const uint64_t* show_to_lanes(const T& object) {
  return warp_exchange(WarpOperation::kTensorCore, kAllLanes, reinterpret_cast<uint64_t>(&object));
}
inline void done_with_lanes() { warp_exchange(WarpOperation::kTensorCore, kAllLanes, 0); }

inline float decode_element(__nv_bfloat16 value) { return __bfloat162float(value); }
inline float decode_element(__half value) { return __half2float(value); }

// The low or the high half of a register.
template <class T>
float element(unsigned pair, int high) {
  T value;
  const uint16_t bits = static_cast<uint16_t>(high ? pair >> 16 : pair);
  std::memcpy(&value, &bits, sizeof(value));
  return decode_element(value);
}

// What a product adds up, exact or nearly so, as the float32 it leaves: towards zero. The PTX manual leaves
// the rounding unspecified; GPUs were found to cut off (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior
// of NVIDIA tensor cores, 2021; Ootomo, Yokota: Recovering single precision accuracy from tensor cores,
// 2022), so that errors of a long sum grow as its length and not as its root. A kernel must do well with
// that.
inline float cut_to_float(double sum) {
  const float nearest = static_cast<float>(sum);
  return std::isfinite(nearest) && std::abs(nearest) > std::abs(sum) ? std::nextafter(nearest, 0.0f)
                                                                     : nearest;
}

}  // namespace ddit_emulation

namespace ddit::kernels::cuda {

template <class T>
void multiply_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Held {
    unsigned a[4], b[2];
  };
  const Held mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const uint64_t* lanes = ddit_emulation::show_to_lanes(mine);
  const int lane = ddit_emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      // a: register 2 (k / 8) + row / 8 of lane 4 (row % 8) + k % 8 / 2; b: register k / 8 of lane 4 column +
      // k % 8 / 2
      const Held& left = ddit_emulation::of_lane<Held>(lanes, row % 8 * 4 + k % 8 / 2);
      const Held& right = ddit_emulation::of_lane<Held>(lanes, column * 4 + k % 8 / 2);
      sum += double{ddit_emulation::element<T>(left.a[k / 8 * 2 + row / 8], k % 2)} *
             ddit_emulation::element<T>(right.b[k / 8], k % 2);
    }
    d[i] = ddit_emulation::cut_to_float(sum);
  }
  ddit_emulation::done_with_lanes();
}

constexpr unsigned kTf32Bits = 0xffffe000u;

inline void multiply_16x8x8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Held {
    unsigned a[4], b[2];
  };
  const Held mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const uint64_t* lanes = ddit_emulation::show_to_lanes(mine);
  const int lane = ddit_emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    double sum = d[i];
    for (int k = 0; k < 8; ++k) {
      // a: register 2 (k / 4) + row / 8 of lane 4 (row % 8) + k % 4; b: register k / 4 of lane 4 column + k %
      // 4
      const Held& left = ddit_emulation::of_lane<Held>(lanes, row % 8 * 4 + k % 4);
      const Held& right = ddit_emulation::of_lane<Held>(lanes, column * 4 + k % 4);
      sum += double{__uint_as_float(left.a[k / 4 * 2 + row / 8] & kTf32Bits)} *
             __uint_as_float(right.b[k / 4] & kTf32Bits);
    }
    d[i] = ddit_emulation::cut_to_float(sum);
  }
  ddit_emulation::done_with_lanes();
}

// With something in the bits that the PTX manual leaves open.
inline unsigned round_to_tf32(float value) {
  constexpr unsigned kBeyond = 0x1555u;
  if (!std::isfinite(value)) return (value != value ? 0x7fffffffu : __float_as_uint(value)) | kBeyond;
  return ((__float_as_uint(value) + 0x1000u) & kTf32Bits) | kBeyond;
}

template <int kCount, bool kTransposed>
void load_matrices(unsigned (&registers)[kCount], const void* row) {
  static_assert(kCount == 2 || kCount == 4, "two or four matrices at a time");
  const int lane = ddit_emulation::lane();
  if (lane < 8 * kCount && reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    ddit_emulation::fail("load_matrices: the address of a row is not 16-byte aligned");
  }
  // The addresses themselves are exchanged, and they stay.
  const uint64_t* rows = ddit_emulation::warp_exchange(
      ddit_emulation::WarpOperation::kTensorCore, ddit_emulation::kAllLanes, reinterpret_cast<uint64_t>(row));
  for (int m = 0; m < kCount; ++m) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int inner = 2 * (lane % 4) + i;
      const int source_row = kTransposed ? inner : lane / 4, source_column = kTransposed ? lane / 4 : inner;
      pair[i] = reinterpret_cast<const uint16_t*>(rows[8 * m + source_row])[source_column];
    }
    registers[m] = pair[0] | static_cast<unsigned>(pair[1]) << 16;
  }
  // No lane may overwrite the matrices before all have read them.
  ddit_emulation::done_with_lanes();
}

}  // namespace ddit::kernels::cuda

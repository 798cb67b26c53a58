// Tensor-core products of a warp (sm_80 and later). Fragment layouts are those of the PTX manual for
// m16n8k16 and m16n8k8. cpp_tests/emulation has a twin of this header.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace ddit::kernels::cuda {

// d [16, 8] += a [16, 16] b [16, 8] in float32; a row-major, b column-major, `T` names the type of a and b.
template <class T>
__device__ __forceinline__ void multiply_16x8x16(float (&d)[4], const unsigned (&a)[4],
                                                 const unsigned (&b)[2]);

template <>
__device__ __forceinline__ void multiply_16x8x16<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4],
                                                                const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void multiply_16x8x16<__half>(float (&d)[4], const unsigned (&a)[4],
                                                         const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d [16, 8] += a [16, 8] b [8, 8]; a and b are tf32, float32 numbers that round_to_tf32 has rounded.
__device__ __forceinline__ void multiply_16x8x8_tf32(float (&d)[4], const unsigned (&a)[4],
                                                     const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The bits of a float32 that tf32 has; the PTX manual leaves open what round_to_tf32 puts into the others.
constexpr unsigned kTf32Bits = 0xffffe000u;

// The nearest float32 with 10 instead of 23 bits after the leading one, ties away from zero, in kTf32Bits.
__device__ __forceinline__ unsigned round_to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// kCount 8x8 matrices of 16-bit elements from shared memory: lane 8 m + i holds the 16-byte aligned address
// of row i of matrix m. Lane l gets elements 2 (l % 4) and the next of row l / 4; transposed, of column l
// / 4.
template <int kCount, bool kTransposed>
__device__ __forceinline__ void load_matrices(unsigned (&registers)[kCount], const void* row) {
  static_assert(kCount == 2 || kCount == 4, "two or four matrices at a time");
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kCount == 4 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  }
}

}  // namespace ddit::kernels::cuda

// The product behind patch_embed and patch_deembed on a GPU, one launch:
//
//   out[m, n] = sum_k in[m, k] (weight[n, k] + lora_scale sum_j lora_b[n, j] lora_a[j, k]) + bias[n]
//
// `in` and `out` are matrices whose rows are patches, wherever their pixels lie: nothing is gathered or
// scattered through memory in between.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/patch_grid.h"

namespace ddit::kernels::patch_linear {

enum class DType { kFloat32, kBFloat16, kFloat16 };

// Patches of cells [B, F, h, w, C, p, p] as a matrix [grid.patches(), grid.features()]. Past a ragged edge
// reading repeats the last pixel row and column, and writing drops what hangs over.
struct PatchMatrix {
  void* data;
  std::array<int64_t, 7> strides;  // of the cells, in elements; any
  PatchGrid grid;
};

// Rows of single numbers are patches of one pixel: [batch, rows, cols] with any strides.
inline PatchMatrix plain_matrix(void* data, int64_t batch, int64_t rows, int64_t cols,
                                const std::array<int64_t, 3>& strides) {
  return {data, {strides[0], 0, strides[1], 0, strides[2], 0, 0}, {batch, 1, rows, 1, cols, 1, 1}};
}

struct Params {
  PatchMatrix in;      // [M, K], only read
  PatchMatrix out;     // [M, N]; no two pixels at one place
  const void* weight;  // [N, K], contiguous, as all below
  const void* bias;    // [N] or null
  const void* lora_a;  // [rank, K]
  const void* lora_b;  // [N, rank]
  int64_t rank;        // 0: no LoRA
  float lora_scale;
  DType dtype;  // of everything; sums are float32
};

// 32-bit indices are enough inside the kernel up to here.
constexpr int64_t kLargestSize = int64_t{1} << 30;

// Of all that the kernel counts: patches, features, ranks, rows and columns of cells.
inline int64_t largest_size(const Params& params) {
  int64_t largest = params.rank;
  for (const PatchGrid& grid : {params.in.grid, params.out.grid}) {
    largest = std::max({largest, grid.patches(), grid.features(), grid.rows, grid.cols});
  }
  return largest;
}

// A cudaError_t. Every size must be at most kLargestSize.
int patch_linear_cuda(const Params& params, void* stream);

}  // namespace ddit::kernels::patch_linear
